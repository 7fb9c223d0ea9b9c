"""The OpenAPI files: what an operation takes and gives must go on fitting the clients that there are."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from growing.findings import Finding
from growing.schemas import Document, Node, Side, pointer

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")

Parameters = Mapping[tuple[str, str], Node]
"""By where they stand and what they are called."""


def shrunk(old: Path, new: Path) -> list[Finding]:
    """What the OpenAPI files of one folder have, and those of the other one not any more. Raises CannotCheck."""
    found = []
    for path in sorted(old.glob("*.yaml")):
        if (new / path.name).exists():
            found += compared(yaml.safe_load(path.read_text()), yaml.safe_load((new / path.name).read_text()))
        else:
            found.append(Finding("FILE_REMOVED", path.name, "the file was removed, with all its operations"))
    return found


def compared(old: Node, new: Node) -> list[Finding]:
    """What clients of the old document would miss in the new one; places are JSON pointers, references followed."""
    return list(_Comparison(old, new).operations())


class _Comparison:
    """Walks two documents side by side, along what the old one has."""

    def __init__(self, old: Node, new: Node) -> None:
        self._old, self._new = Document(old), Document(new)
        self._requests = Side("REQUEST", self._old, self._new)
        self._answers = Side("RESPONSE", self._old, self._new)

    def operations(self) -> Iterator[Finding]:
        for path, old in self._old.root["paths"].items():
            new = self._new.root["paths"].get(path, {})
            for method in METHODS:
                place = pointer("/paths", path, method)
                if method in old and method in new:
                    yield from self._operation(old[method], new[method], place)
                    before, after = _parameters(self._old, old, method), _parameters(self._new, new, method)
                    yield from self._parameters(before, after, pointer(place, "parameters"))
                elif method in old:
                    yield Finding("OPERATION_REMOVED", place, "clients may still call it")

    def _operation(self, old: Node, new: Node, place: str) -> Iterator[Finding]:
        if old.get("operationId") != new.get("operationId"):
            text = f"it is now {new.get('operationId')}, but generated clients call it {old.get('operationId')}"
            yield Finding("OPERATION_ID_CHANGED", pointer(place, "operationId"), text)
        before = old.get("security", self._old.root.get("security", []))
        after = new.get("security", self._new.root.get("security", []))
        if before != after:
            yield Finding("SECURITY_CHANGED", pointer(place, "security"), f"it changed from {before} to {after}")
        yield from self._body(old.get("requestBody", {}), new.get("requestBody", {}), pointer(place, "requestBody"))
        yield from self._responses(old["responses"], new["responses"], pointer(place, "responses"))

    def _parameters(self, old: Parameters, new: Parameters, place: str) -> Iterator[Finding]:
        for key, parameter in old.items():
            if key not in new:
                yield Finding("PARAMETER_REMOVED", pointer(place, *key), "clients may still send it")
            else:
                at = pointer(place, *key, "schema")
                yield from self._requests.compared(parameter.get("schema", {}), new[key].get("schema", {}), at)
        for key, parameter in new.items():
            if parameter.get("required", False) and not old.get(key, {}).get("required", False):
                yield Finding("PARAMETER_REQUIRED", pointer(place, *key), "clients may send requests without it")

    def _body(self, old: Node, new: Node, place: str) -> Iterator[Finding]:
        before, after = self._old.resolved(old), self._new.resolved(new)
        if after.get("required", False) and not before.get("required", False):
            yield Finding("REQUEST_BODY_REQUIRED", place, "clients may send requests without a body")
        yield from self._content(self._requests, before, after, place)

    def _responses(self, old: Node, new: Node, place: str) -> Iterator[Finding]:
        for status in new.keys() - old.keys():
            if not status.startswith(("4", "5")):  # clients are ready for any problem, as they must be
                text = "clients know only the earlier statuses of success"
                yield Finding("RESPONSE_STATUS_ADDED", pointer(place, status), text)
        for status, answer in old.items():
            at = pointer(place, status)
            if status not in new:
                yield Finding("RESPONSE_STATUS_REMOVED", at, "clients may depend on it")
                continue
            before, after = self._old.resolved(answer), self._new.resolved(new[status])
            yield from self._headers(before.get("headers", {}), after.get("headers", {}), pointer(at, "headers"))
            yield from self._content(self._answers, before, after, at)

    def _headers(self, old: Node, new: Node, place: str) -> Iterator[Finding]:
        for name, header in old.items():
            at = pointer(place, name)
            if name not in new:
                yield Finding("RESPONSE_HEADER_REMOVED", at, "clients may still read it")
                continue
            before, after = self._old.resolved(header), self._new.resolved(new[name])
            if before.get("required", False) and not after.get("required", False):
                yield Finding("RESPONSE_HEADER_OPTIONAL", at, "clients rely on it")
            yield from self._answers.compared(before.get("schema", {}), after.get("schema", {}), pointer(at, "schema"))

    def _content(self, side: Side, old: Node, new: Node, place: str) -> Iterator[Finding]:
        for media_type, content in old.get("content", {}).items():
            at = pointer(place, "content", media_type)
            if media_type not in new.get("content", {}):
                yield side.finding("MEDIA_TYPE_REMOVED", at, "clients may know no other")
                continue
            after = new["content"][media_type]
            yield from side.compared(content.get("schema", {}), after.get("schema", {}), pointer(at, "schema"))


def _parameters(document: Document, path: Node, method: str) -> Parameters:
    """Those of an operation, which go before those of its path."""
    nodes = [*path.get("parameters", ()), *path[method].get("parameters", ())]
    return {(node["in"], node["name"]): node for node in map(document.resolved, nodes)}
