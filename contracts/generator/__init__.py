"""Generates `souk_contracts` from the .proto files and the OpenAPI file.

Three layers come out of each proto package, `souk.<service>.v1`, as `souk_contracts.<service>.v1`:

- `messages`: typed dataclasses, by betterproto2's compiler;
- `codec`: conversions between them and protobuf's own (upb) messages, which alone read and write the wire. They are
  stricter than betterproto2's decoder, and ten times as fast;
- `rpc`: the grpc.aio stub and the servicer's base class.
"""

from generator.generate import generate

__all__ = ["generate"]
