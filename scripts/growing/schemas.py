"""Schemas of an OpenAPI file: whether the values of one fit another.

Of a request, what was good must still be good: the old schema's values must fit the new one. Of an answer, what comes
must be what clients know: the new schema's values must fit the old one; it may have further properties, though.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from growing.findings import CannotCheck, Finding

Node = Mapping[str, Any]

ANNOTATIONS = ("description", "title", "summary", "example", "examples", "deprecated", "$comment")
LOWEST = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
HIGHEST = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
EXACT = ("pattern", "format", "uniqueItems", "multipleOf")
STRUCTURE = ("type", "enum", "const", "required", "properties", "additionalProperties", "items", "default", "allOf")
UNDERSTOOD = {*ANNOTATIONS, *LOWEST, *HIGHEST, *EXACT, *STRUCTURE}
ANY_TYPE = frozenset({"null", "boolean", "object", "array", "number", "string"})


@dataclass(frozen=True)
class Document:
    """An OpenAPI file, parsed."""

    root: Node

    def resolved(self, node: Node) -> Node:
        """What a reference stands for; anything else is what it is. Raises CannotCheck for one that leads nowhere."""
        while "$ref" in node:
            found: Any = self.root
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
            if found is None or found is node:
                raise CannotCheck(f"an OpenAPI file has a reference to something that does not exist: {node['$ref']}")
            node = found
        return node

    def schema(self, node: Node) -> Node:
        """A schema without a reference at its top, and with the parts of `allOf` as one."""
        merged = dict(self.resolved(node))
        for part in map(self.schema, merged.pop("allOf", ())):
            required = [*merged.get("required", ()), *part.get("required", ())]
            properties = {**part.get("properties", {}), **merged.get("properties", {})}
            merged = {**part, **merged, "required": required, "properties": properties}
        return merged


@dataclass(frozen=True)
class Side:
    """Requests or answers, in two versions of a document."""

    name: str
    """REQUEST or RESPONSE; the names of its rules begin so."""
    old: Document
    new: Document

    @property
    def asks(self) -> bool:
        """Whether it is that of the requests."""
        return self.name == "REQUEST"

    def finding(self, rule: str, place: str, text: str) -> Finding:
        """One of this side."""
        return Finding(f"{self.name}_{rule}", place, text)

    def compared(self, old: Node, new: Node, place: str) -> Iterator[Finding]:
        """Why the values of this side do not fit any more."""
        before, after = self.old.schema(old), self.new.schema(new)
        given, wanted = (before, after) if self.asks else (after, before)
        yield from _values(self, given, wanted, place)
        yield from _limits(self, given, wanted, place)
        yield from _others(self, before, after, place)
        yield from _properties(self, before, after, place)
        for key in ("items", "additionalProperties"):
            inner, new_inner = _inner(before, key), _inner(after, key)
            if inner or new_inner:
                yield from self.compared(inner, new_inner, pointer(place, key))


def pointer(place: str, *parts: str) -> str:
    """A JSON pointer (RFC 6901), further down."""
    return "/".join([place, *(part.replace("~", "~0").replace("/", "~1") for part in parts)])


def _values(side: Side, given: Node, wanted: Node, place: str) -> Iterator[Finding]:
    surplus = _types(given) - _types(wanted)
    if "number" in _types(wanted):
        surplus -= {"integer"}
    allowed, possible = _choices(wanted), _choices(given)
    if surplus:
        yield side.finding("TYPE", pointer(place, "type"), f"{_named(surplus)} is not {_named(_types(wanted))}")
    elif allowed is not None and possible is None:
        yield side.finding("ENUM", pointer(place, "enum"), f"not every value is among {_named(allowed)}")
    elif allowed is not None and (unknown := [each for each in possible or () if each not in allowed]):
        yield side.finding("ENUM", pointer(place, "enum"), f"{_named(unknown)} is not among {_named(allowed)}")


def _limits(side: Side, given: Node, wanted: Node, place: str) -> Iterator[Finding]:
    for keyword in (*LOWEST, *HIGHEST, *EXACT):
        if keyword in wanted and not _keeps(keyword, given.get(keyword), wanted[keyword]):
            text = not_within(given.get(keyword, "no limit"), wanted[keyword])
            yield side.finding("LIMIT", pointer(place, keyword), text)


def not_within(limit: object, wanted: object) -> str:
    """What a finding says of a limit that became narrower."""
    return f"{limit} is not within {wanted}"


def _keeps(keyword: str, limit: Any, wanted: Any) -> bool:
    if keyword in EXACT or limit is None:
        return wanted is False or bool(limit == wanted)
    return bool(limit >= wanted if keyword in LOWEST else limit <= wanted)


def _others(side: Side, before: Node, after: Node, place: str) -> Iterator[Finding]:
    if side.asks and before.get("default") != after.get("default"):
        text = f"for clients that leave it out, {before.get('default')} became {after.get('default')}"
        yield side.finding("DEFAULT", pointer(place, "default"), text)
    for keyword in sorted((before.keys() | after.keys()) - UNDERSTOOD):
        if before.get(keyword) != after.get(keyword):
            text = "it changed, and this check cannot judge the keyword; extend the check, or use another keyword"
            yield side.finding("NOT_UNDERSTOOD", pointer(place, keyword), text)


def _properties(side: Side, before: Node, after: Node, place: str) -> Iterator[Finding]:
    old, new = before.get("properties", {}), after.get("properties", {})
    was_required, is_required = set(before.get("required", ())), set(after.get("required", ()))
    for name, node in old.items():
        at = pointer(place, "properties", name)
        if name not in new:
            yield side.finding("PROPERTY_REMOVED", at, f"clients may still {'send' if side.asks else 'read'} it")
            continue
        if not side.asks and name in was_required - is_required:
            yield side.finding("PROPERTY_OPTIONAL", at, "clients rely on it")
        yield from side.compared(node, new[name], at)
    if side.asks:
        for name in sorted(is_required - was_required):
            yield side.finding(
                "PROPERTY_REQUIRED", pointer(place, "properties", name), "clients may send requests without it"
            )
        if _closed(after) and not _closed(before):
            yield side.finding("CLOSED", place, "clients may send additional properties")
    elif _closed(before) and (not _closed(after) or new.keys() - old.keys()):
        yield side.finding("OPENED", place, "clients were told not to expect additional properties")


def _types(schema: Node) -> frozenset[str]:
    declared = schema.get("type", ANY_TYPE)
    return frozenset([declared] if isinstance(declared, str) else declared)


def _choices(schema: Node) -> list[Any] | None:
    """The values that there may be, None for any."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _closed(schema: Node) -> bool:
    return schema.get("additionalProperties", True) is False


def _inner(schema: Node, key: str) -> Node:
    """The schema of items or of further properties; an empty one takes any."""
    found = schema.get(key)
    return found if isinstance(found, dict) else {}


def _named(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))
