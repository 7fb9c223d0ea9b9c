"""The descriptors of one .proto file, under the names that the generated code uses."""

import keyword
import re
from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)


class UnsupportedProto(Exception):
    """A construct that the generator does not know; the message says what to write instead."""


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Field:
    """A field of a message: of what type it is, and whether it can be absent."""

    def __init__(self, descriptor: FieldDescriptorProto, message: "Message") -> None:
        self.name = descriptor.name
        if keyword.iskeyword(self.name):
            raise UnsupportedProto(f"{message.name}.{self.name}: a Python keyword; give the field another name")
        self.repeated = descriptor.label == FieldDescriptorProto.LABEL_REPEATED
        self.is_message = descriptor.type == FieldDescriptorProto.TYPE_MESSAGE
        self.is_enum = descriptor.type == FieldDescriptorProto.TYPE_ENUM
        self.map_value: Field | None = None
        self.type_name = ""
        if descriptor.type == FieldDescriptorProto.TYPE_GROUP:
            raise UnsupportedProto(f"{message.name}.{self.name}: groups are not supported; use a message")
        if self.is_message or self.is_enum:
            self.type_name = message.local_type(descriptor.type_name, self.name)
            entry = message.map_entries.get(self.type_name)
            if entry is not None:
                self.map_value = Field(entry.field[1], message)
        oneof = descriptor.HasField("oneof_index") and not descriptor.proto3_optional
        self.oneof = message.oneofs[descriptor.oneof_index] if oneof else None
        self.optional = descriptor.proto3_optional or oneof or (self.is_message and not self.repeated)


class Message:
    """A top-level message."""

    def __init__(self, descriptor: DescriptorProto, file: "File") -> None:
        self.name = descriptor.name
        self.snake_name = snake_case(descriptor.name)
        self._file = file
        self.oneofs = [oneof.name for oneof in descriptor.oneof_decl]
        self.map_entries = {
            f"{self.name}.{nested.name}": nested for nested in descriptor.nested_type if nested.options.map_entry
        }
        if len(self.map_entries) != len(descriptor.nested_type) or descriptor.enum_type:
            raise UnsupportedProto(f"{self.name}: declare nested messages and enums at the top of the file")
        self.fields = [Field(field, self) for field in descriptor.field]

    def local_type(self, type_name: str, field: str) -> str:
        prefix = f".{self._file.package}."
        if not type_name.startswith(prefix):
            raise UnsupportedProto(
                f"{self.name}.{field}: {type_name[1:]} is declared in another package; each package stands alone"
            )
        return type_name.removeprefix(prefix)


class Method:
    """A unary call."""

    def __init__(self, descriptor: MethodDescriptorProto, service: "Service", comment: str) -> None:
        if descriptor.client_streaming or descriptor.server_streaming:
            raise UnsupportedProto(
                f"{service.name}.{descriptor.name}: streams in one direction are not supported; use unary calls"
            )
        self.name = descriptor.name
        self.python_name = snake_case(descriptor.name)
        self.path = f"/{service.full_name}/{descriptor.name}"
        self.request = descriptor.input_type.rpartition(".")[2]
        self.response = descriptor.output_type.rpartition(".")[2]
        self.comment = comment


class Service:
    """The one service of a file. Its streams in both directions are for code that is written by hand."""

    def __init__(self, descriptor: ServiceDescriptorProto, file: "File") -> None:
        self.name = descriptor.name
        self.python_name = descriptor.name.removesuffix("Service")
        self.full_name = f"{file.package}.{descriptor.name}"
        # 6 is the field number of `service` in FileDescriptorProto, 2 that of `method` in ServiceDescriptorProto.
        self.comment = file.comment(6, 0)
        self.methods = [
            Method(method, self, file.comment(6, 0, 2, index))
            for index, method in enumerate(descriptor.method)
            if not (method.client_streaming and method.server_streaming)
        ]


class File:
    """A .proto file, `souk/<service>/v<N>/<service>.proto`."""

    def __init__(self, descriptor: FileDescriptorProto) -> None:
        self.descriptor = descriptor
        self.name = descriptor.name
        self.package = descriptor.package
        self._comments = {
            tuple(location.path): location.leading_comments for location in descriptor.source_code_info.location
        }
        root, _, rest = descriptor.package.partition(".")
        self.service_dir, _, self.major = rest.partition(".")
        if root != "souk" or not re.fullmatch(r"v\d+", self.major):
            raise UnsupportedProto(f"{self.name}: the package is {self.package}, and should be souk.<service>.v<N>")
        if len(descriptor.service) != 1:
            raise UnsupportedProto(f"{self.name}: declares {len(descriptor.service)} services, and should declare one")
        self.python_package = f"souk_contracts.{self.service_dir}.{self.major}"
        self.service = Service(descriptor.service[0], self)
        self.messages = [Message(message, self) for message in descriptor.message_type]

    def comment(self, *path: int) -> str:
        """The comment that stands before the element at `path`, in the terms of SourceCodeInfo."""
        lines = self._comments.get(path, "").strip().splitlines()
        return "\n".join(line.removeprefix(" ") for line in lines)

    def enums(self) -> Iterator[str]:
        return (enum.name for enum in self.descriptor.enum_type)
