"""REST in, gRPC out: the way into Souk."""

__version__ = "1.1.0"
