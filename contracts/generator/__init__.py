"""Generates `souk_contracts` from the .proto files and the OpenAPI file.

Three layers come out of each proto package, `souk.<service>.v1`, as `souk_contracts.<service>.v1`:

- `messages`: typed dataclasses, by betterproto2's compiler;
- `codec`: conversions between them and protobuf's own (upb) messages, which alone read and write the wire. They are
  stricter than betterproto2's decoder, and ten times as fast;
- `rpc`: the grpc.aio stub and the servicer's base class, for unary calls. Streams in both directions are for code that
  is written by hand, so a service with nothing else has no such module.
"""

from generator.generate import generate

__all__ = ["generate"]
