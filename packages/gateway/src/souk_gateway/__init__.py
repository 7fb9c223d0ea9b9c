"""REST in, gRPC out: the way into Souk."""

from souk_gateway._version import __version__

__all__ = ["__version__"]
