"""Contracts and schemas only grow: edits that must be caught, and edits that must not be."""
