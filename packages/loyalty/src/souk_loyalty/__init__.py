"""Customers' accounts: discounts and points."""

__version__ = "1.1.0"

SERVICE = "loyalty"
