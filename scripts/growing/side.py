"""One version's side of an exchange of messages, in a process of its own: two versions do not fit into one.

It runs as a file, on the version of souk_contracts that PYTHONPATH names, and speaks JSON: `write` prints examples of
all messages, `read` says how this version sees those that it is given. `exchange.py` stands between the two sides.
"""

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import betterproto2
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor as Wire

import souk_contracts

UNKNOWN_VALUE = 1_000_000
UNKNOWN_FIELDS = b"".join(
    (
        bytes.fromhex("f8ffffff0f") + b"\x01",  # the highest field number there is, 536870911, as a varint
        bytes.fromhex("f9ffffff0f") + bytes(8),  # as 64 bits
        bytes.fromhex("faffffff0f") + b"\x02\xff\xfe",  # as bytes that are no text
        bytes.fromhex("fdffffff0f") + bytes(4),  # as 32 bits
    )
)
DEEPEST = 3
"""Messages may hold themselves; examples end here."""


class Codec:
    """What the generated code has for one message."""

    def __init__(self, descriptor: Any, module: Any) -> None:
        self.descriptor = descriptor
        functions = [value for name, value in vars(module).items() if name.startswith(("encode_", "decode_"))]
        for function in functions:
            result = function.__annotations__["return"]
            if result is bytes and function.__annotations__["message"].__name__ == descriptor.name:
                self.encode = function
            elif result is not bytes and result.__name__ == descriptor.name:
                self.decode = function

    def seen(self, data: bytes) -> dict[str, Any]:
        """How this version sees a message and passes it on, or why it cannot read it."""
        try:
            message = self.decode(data)
            return {"view": view(message), "again": self.encode(message).hex()}
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
            return {"error": f"{type(error).__name__}: {error}"}

    def examples(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """The kind of each example, its bytes in hexadecimal, and how the sender itself sees it."""
        for kind, message in example_messages(self.descriptor):
            data = message.SerializeToString()
            seen = self.seen(data)
            # What a version knows it sends through its own code; it would drop what it does not know.
            known = kind in ("empty", "filled")
            yield kind, seen.get("again", data.hex()) if known else data.hex(), seen


def codecs() -> dict[str, Codec]:
    """Of all messages of this version, by their full names."""
    found = {}
    for service in pkgutil.iter_modules(souk_contracts.__path__, "souk_contracts."):
        if service.ispkg:
            package = importlib.import_module(service.name)
            for major in pkgutil.iter_modules(package.__path__, f"{service.name}."):
                module = importlib.import_module(f"{major.name}.codec")
                for descriptor in module.DESCRIPTOR.message_types_by_name.values():
                    found[descriptor.full_name] = Codec(descriptor, module)
    return found


def example_messages(descriptor: Any) -> Iterator[tuple[str, Any]]:
    """Every field set, every value of an enum, each member of a oneof, extremes; and what a newer version may add."""
    yield "empty", message_factory.GetMessageClass(descriptor)()
    enums = descriptor.file.enum_types_by_name.values()
    oneofs = [oneof for message in descriptor.file.message_types_by_name.values() for oneof in message.oneofs]
    for nth in range(max(4, *(len(enum.values) for enum in enums), *(len(oneof.fields) for oneof in oneofs))):
        yield "filled", filled(descriptor, nth)
    for unknown in ("fields", "enum values"):
        yield f"unknown {unknown}", filled(descriptor, 0, unknown)


def filled(descriptor: Any, nth: int, unknown: str = "", depth: int = 0) -> Any:
    """A message with the nth value that each of its fields may have, by turns; of each oneof the nth member."""
    message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None and oneof.fields[nth % len(oneof.fields)] is not field:
            continue
        if field.message_type is None or depth < DEEPEST:
            put(message, field, nth, unknown, depth)
    if unknown == "fields":
        message.MergeFromString(UNKNOWN_FIELDS)
    return message


def put(message: Any, field: Any, nth: int, unknown: str, depth: int) -> None:
    """Sets a field to its nth value; a list to that one and the next."""

    def value(field: Any, nth: int) -> Any:
        if field.message_type is not None:
            return filled(field.message_type, nth, unknown, depth + 1)
        values = [UNKNOWN_VALUE] if unknown == "enum values" and field.enum_type is not None else candidates(field)
        return values[nth % len(values)]

    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, each = field.message_type.fields
        if each.message_type is not None:
            getattr(message, field.name)[value(key, nth)].CopyFrom(value(each, nth))
        else:
            getattr(message, field.name)[value(key, nth)] = value(each, nth)
    elif field.is_repeated:
        getattr(message, field.name).extend([value(field, nth), value(field, nth + 1)])
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value(field, nth))
    else:
        setattr(message, field.name, value(field, nth))


def candidates(field: Any) -> list[Any]:
    """Values of a field that is no message: one of its own first, then the extremes."""
    own = 1000 + field.number
    match field.cpp_type:
        case Wire.CPPTYPE_STRING if field.type == Wire.TYPE_BYTES:
            return [bytes([field.number % 256]) * 3, b"", bytes(range(256))]
        case Wire.CPPTYPE_STRING:
            return [f"text {field.number} ×", "", "\0\n\U0010ffff" * 1000]
        case Wire.CPPTYPE_BOOL:
            return [True, False]
        case Wire.CPPTYPE_ENUM:
            numbers = [each.number for each in field.enum_type.values]
            return [*numbers[1:], numbers[0]]
        case Wire.CPPTYPE_INT32:
            return [own, 2**31 - 1, -(2**31), 0]
        case Wire.CPPTYPE_INT64:
            return [own, 2**63 - 1, -(2**63), 0]
        case Wire.CPPTYPE_UINT32:
            return [own, 2**32 - 1, 0]
        case Wire.CPPTYPE_UINT64:
            return [own, 2**64 - 1, 0]
        case _:
            return [own + 0.5, 2.0**127, -(2.0**127), 0.0]  # a float can hold them, too


def view(value: Any) -> Any:
    """A value as JSON: messages are objects, maps are lists of pairs, and a oneof says whether it is set at all."""
    if isinstance(value, betterproto2.Message):
        declared = fields(value)  # type: ignore[arg-type] # betterproto2 makes its subclasses dataclasses
        seen = {field.name: view(getattr(value, field.name)) for field in declared}
        for field in declared:
            if oneof := field.metadata["betterproto"].group:
                name = f"oneof {oneof}"
                seen[name] = seen.get(name, False) or seen[field.name] is not None
        return seen
    if isinstance(value, dict):
        return sorted([key, view(each)] for key, each in value.items())
    if isinstance(value, list):
        return [view(each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    return int(value) if isinstance(value, betterproto2.Enum) else value


def main() -> None:
    """Reads the command and its input, prints the answer."""
    known = codecs()
    answer: dict[str, Any]
    if sys.argv[1] == "write":
        answer = {name: list(codec.examples()) for name, codec in known.items()}
    else:
        given = json.load(sys.stdin)
        answer = {
            name: [known[name].seen(bytes.fromhex(data)) for data in each]
            for name, each in given.items()
            if name in known
        }
    print(json.dumps({"package": souk_contracts.__file__, "answer": answer}))


if __name__ == "__main__":
    main()
