"""The .proto files: buf's rules, and one of our own."""

import json
import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import yaml
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from releasing.ledger import ROOT

from growing.findings import CannotCheck, Finding
from growing.versions import Contracts

BUF = Path(sysconfig.get_path("scripts")) / "buf"
_FOUND = 100
"""buf's exit code where it has findings."""

_MESSAGE, _FIELD = 4, 2
"""The field numbers of `message_type` in FileDescriptorProto and of `field` in DescriptorProto."""

_ZERO = {
    FieldDescriptorProto.TYPE_STRING: "empty",
    FieldDescriptorProto.TYPE_BYTES: "empty",
    FieldDescriptorProto.TYPE_BOOL: "false",
    FieldDescriptorProto.TYPE_ENUM: "unspecified",
    FieldDescriptorProto.TYPE_MESSAGE: "absent",
}


def shrunk(old: Contracts, new: Contracts) -> list[Finding]:
    """What the new .proto files take away. Raises CannotCheck where they do not compile."""
    return [*_breaking(old, new), *_unexplained(old, new)]


def _breaking(old: Contracts, new: Contracts) -> Iterator[Finding]:
    rules = yaml.safe_load((ROOT / "contracts" / "buf.yaml").read_text())["breaking"]
    config = json.dumps({"version": "v2", "breaking": rules})
    options = (f"--against={old.protos}", f"--config={config}", "--error-format=json")
    for line in _buf("breaking", new.protos, *options).decode().splitlines():
        found = json.loads(line)
        place = f"{found['path']}:{found['start_line']}" if "path" in found else "proto"
        yield Finding(found["type"], place, found["message"])


def _unexplained(old: Contracts, new: Contracts) -> Iterator[Finding]:
    """A message that comes from an older version lacks what is new in it; the contract says what that means."""
    before = {
        (file.package, message.name): {field.name for field in message.field}
        for file in _files(old)
        for message in file.message_type
    }
    for file in _files(new):
        comments = {tuple(each.path): each.leading_comments for each in file.source_code_info.location}
        for at, message in enumerate(file.message_type):
            known = before.get((file.package, message.name))
            for nth, field in enumerate(message.field):
                word = _zero(field)
                comment = comments.get((_MESSAGE, at, _FIELD, nth), "")
                if known is None or field.name in known or re.search(rf"\b{word}\b", comment, re.IGNORECASE):
                    continue
                yield Finding(
                    "FIELD_SAYS_DEFAULT",
                    f"{file.package}.{message.name}.{field.name}",
                    f"the comment on this new field must say what it means when the field is {word}, "
                    f"as it is in every message from {old.name}",
                )


def _zero(field: FieldDescriptorProto) -> str:
    """What people call the value that a field has where it was not sent."""
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return "empty"
    if field.HasField("oneof_index"):  # as those that are `optional` have, too
        return "absent"
    return _ZERO.get(field.type, "0")


def _files(contracts: Contracts) -> list[FileDescriptorProto]:
    return list(FileDescriptorSet.FromString(_buf("build", contracts.protos, "--output=-#format=binpb")).file)


def _buf(*arguments: str | Path) -> bytes:
    done = subprocess.run([BUF, *arguments], capture_output=True, check=False)
    if done.returncode not in (0, _FOUND) or done.stderr:
        raise CannotCheck(f"buf {arguments[0]} failed: {(done.stderr or done.stdout).decode().strip()}")
    return done.stdout
