"""Stock, and holds on it."""

__version__ = "1.0.0"

SERVICE = "reservations"
