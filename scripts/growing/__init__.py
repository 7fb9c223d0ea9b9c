"""Contracts and schemas only grow within a major version: the checks that compare this tree with what was released."""
