"""Customers' accounts: discounts and points."""

__version__ = "1.0.0"

SERVICE = "loyalty"
