"""Writes the `codec` module of a package: dataclass to upb message and back, each field touched once."""

from collections.abc import Iterable

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from generator.model import Field, File, Message

_HEAD = '''"""Reads and writes the messages of {package} on the wire. Generated from {source}."""

from typing import Any

from google.protobuf import descriptor_pool, message_factory

{limits}from {python_package}.messages import (
{names}
)

DESCRIPTOR: Any = descriptor_pool.Default().AddSerializedFile(
    {descriptor!r}
)


def _wire_class(name: str) -> Any:
    return message_factory.GetMessageClass(DESCRIPTOR.message_types_by_name[name])


def _one_of(message: object, *names: str) -> None:
    """protobuf would keep the last one silently."""
    present = [name for name in names if getattr(message, name) is not None]
    if len(present) > 1:
        raise ValueError(f"{{type(message).__name__}}: only one of {{', '.join(present)}} may be set")
'''

_MESSAGE = """

_{name} = _wire_class("{name}")


def {snake}_to_wire(message: {name}) -> Any:
{check}    return _{name}({to_wire})


def {snake}_from_wire(wire: Any) -> {name}:
    return {name}({from_wire})


def encode_{snake}(message: {name}) -> bytes:
    data: bytes = {snake}_to_wire(message).SerializeToString()
    return data


def decode_{snake}(data: bytes) -> {name}:
    return {snake}_from_wire(_{name}.FromString(data))
"""


def codec_module(file: File) -> str:
    """The module's source."""
    names = sorted([*file.enums(), *(message.name for message in file.messages)])
    snakes = {message.name: message.snake_name for message in file.messages}
    used_enums = {
        field.type_name
        for message in file.messages
        for each in message.fields
        for field in (each, each.map_value)
        if field is not None and field.is_enum
    }
    imported = [name for name in names if name in snakes or name in used_enums]
    lists = any(field.repeated for message in file.messages for field in message.fields)
    head = _HEAD.format(
        limits="from souk_contracts.limits import few\n" if lists else "",
        package=file.package,
        source=file.name,
        python_package=file.python_package,
        names="\n".join(f"    {name}," for name in imported),
        descriptor=_without_source_info(file.descriptor),
    )
    return head + "".join(_message(message, snakes) for message in file.messages)


def _message(message: Message, snakes: dict[str, str]) -> str:
    check = ""
    for oneof in message.oneofs:
        members = [field.name for field in message.fields if field.oneof == oneof]
        if members:
            check += f"    _one_of(message, {', '.join(map(repr, members))})\n"
    return _MESSAGE.format(
        name=message.name,
        snake=message.snake_name,
        check=check,
        to_wire=_arguments(f"{field.name}={_to_wire(field, snakes)}" for field in message.fields),
        from_wire=_arguments(f"{field.name}={_from_wire(field, snakes)}" for field in message.fields),
    )


def _arguments(arguments: Iterable[str]) -> str:
    text = "".join(f"\n        {argument}," for argument in arguments)
    return f"{text}\n    " if text else ""


def _to_wire(field: Field, snakes: dict[str, str]) -> str:
    value = f"message.{field.name}"
    if field.map_value is not None:
        if field.map_value.is_message:
            return f"{{key: {snakes[field.map_value.type_name]}_to_wire(each) for key, each in {value}.items()}}"
        return value
    if not field.is_message:
        return value  # an absent optional is None on both sides
    convert = f"{snakes[field.type_name]}_to_wire"
    if field.repeated:
        return f"[{convert}(each) for each in {value}]"
    return f"None if {value} is None else {convert}({value})"


def _from_wire(field: Field, snakes: dict[str, str]) -> str:
    value = f"wire.{field.name}"
    if field.map_value is not None:
        if field.map_value.is_message or field.map_value.is_enum:
            each = _converted(field.map_value, "each", snakes)
            return f"{{key: {each} for key, each in few({value}).items()}}"
        return f"dict(few({value}))"
    if field.repeated:
        if field.is_message or field.is_enum:
            return f"[{_converted(field, 'each', snakes)} for each in few({value})]"
        return f"list(few({value}))"
    converted = _converted(field, value, snakes)
    return f'{converted} if wire.HasField("{field.name}") else None' if field.optional else converted


def _converted(field: Field, value: str, snakes: dict[str, str]) -> str:
    if field.is_message:
        return f"{snakes[field.type_name]}_from_wire({value})"
    return f"{field.type_name}({value})" if field.is_enum else value


def _without_source_info(descriptor: FileDescriptorProto) -> bytes:
    """What the codec and reflection need: no comments, no positions."""
    copy = FileDescriptorProto()
    copy.CopyFrom(descriptor)
    copy.ClearField("source_code_info")
    return copy.SerializeToString(deterministic=True)
