"""Records orders, and drives each to its end."""

__version__ = "1.0.0"

SERVICE = "orders"
