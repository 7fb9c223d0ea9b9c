"""Stock, and holds on it."""

__version__ = "1.1.0"

SERVICE = "reservations"
