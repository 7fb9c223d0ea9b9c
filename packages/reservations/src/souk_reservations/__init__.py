"""Stock, and holds on it."""

from souk_reservations._version import __version__

__all__ = ["SERVICE", "__version__"]

SERVICE = "reservations"
