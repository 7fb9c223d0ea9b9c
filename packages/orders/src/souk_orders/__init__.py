"""Records orders, and drives each to its end."""

__version__ = "1.1.0"

SERVICE = "orders"
