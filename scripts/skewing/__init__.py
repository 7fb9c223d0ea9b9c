"""Versions that meet: the policy of which may, and the matrix that shows that they can."""
