"""Releases: the ledger of them, and how each is built again, bit for bit, from the history."""
