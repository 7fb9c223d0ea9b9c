"""Refusals on the wire: google.rpc.Status with an ErrorInfo, in `grpc-status-details-bin`.

Source: https://google.aip.dev/193 and google/rpc/error_details.proto.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Refused(Exception):
    """A call that was refused for a reason that its contract names.

    Servicers raise it; clients get it from `refusal_of`. `detail` is for people, and says what to do; `metadata`
    holds what it is about, such as the SKU.
    """

    def __init__(
        self, code: grpc.StatusCode, domain: str, reason: str, detail: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.code = code
        self.domain = domain
        self.reason = reason
        self.detail = detail
        self.metadata = dict(metadata or {})

    def status(self) -> bytes:
        """All of it, as an encoded google.rpc.Status."""
        status = Status(code=self.code.value[0], message=self.detail)
        status.details.add().Pack(ErrorInfo(reason=self.reason, domain=self.domain, metadata=self.metadata))
        encoded: bytes = status.SerializeToString()
        return encoded

    def trailing_metadata(self) -> tuple[str, bytes]:
        """The entry of the trailing metadata that carries the whole refusal."""
        return _DETAILS_KEY, self.status()


Row = TypeVar("Row")


def row_of(table: Mapping[type[Any], Row], error: Exception) -> Row:
    """The table's row for an error: that of its class, or else of the nearest base that has one. Raises KeyError."""
    for each in type(error).__mro__:
        if each in table:
            return table[each]
    raise KeyError(f"{type(error).__name__} has no row, nor has a base of it")


def plain_status(code: grpc.StatusCode, detail: str) -> bytes:
    """An encoded google.rpc.Status of a failure that no contract names."""
    encoded: bytes = Status(code=code.value[0], message=detail).SerializeToString()
    return encoded


def plain_error(code: grpc.StatusCode, detail: str) -> grpc.aio.AioRpcError:
    """The error of a call that nobody answered, as gRPC raises it."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), detail)


def error_of(status: bytes, trailing_metadata: grpc.aio.Metadata) -> grpc.aio.AioRpcError:
    """The error that a call which ended with this google.rpc.Status raises. Raises DecodeError."""
    read = Status.FromString(status)
    metadata = grpc.aio.Metadata(*trailing_metadata, (_DETAILS_KEY, status))
    code = _CODES.get(read.code, grpc.StatusCode.UNKNOWN)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, read.message)


def refusal_of(error: grpc.aio.AioRpcError) -> Refused | None:
    """The refusal that a failed call carries, or None where it failed for another cause."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            info = ErrorInfo()
            try:
                status = Status.FromString(value)
                found = any(detail.Unpack(info) for detail in status.details)
            except DecodeError:
                return None
            if found:
                return Refused(error.code(), info.domain, info.reason, status.message, dict(info.metadata))
    return None
