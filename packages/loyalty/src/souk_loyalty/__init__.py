"""Customers' accounts: discounts and points."""

from souk_loyalty._version import __version__

__all__ = ["SERVICE", "__version__"]

SERVICE = "loyalty"
