"""What Souk's services say to each other.

`souk_contracts.<service>.v1` holds the messages, the stub and the servicer's base class of a service, all generated;
`server`, `channel` and `errors` hold the conventions of the wire that every server and client follows.
"""

from souk_contracts._version import __version__

__all__ = ["__version__"]
