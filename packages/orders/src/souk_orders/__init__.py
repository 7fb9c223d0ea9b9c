"""Records orders, and drives each to its end."""

from souk_orders._version import __version__

__all__ = ["SERVICE", "__version__"]

SERVICE = "orders"
