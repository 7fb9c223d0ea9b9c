"""Edits that somebody would not survive: each is caught, by the check that is named for it."""

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from growing import exchange, openapi, protos
from growing.findings import Finding
from growing.versions import Contracts

from tests.growth.edits import CODEC, GONE, LOYALTY, OPENAPI, ORDERS, RESERVATIONS, DocumentEdit, TextEdit, edited_copy

PROTOS = {
    "a field gets another number": (
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
        TextEdit(ORDERS, "int64 total = 12;", "int64 total = 99;"),
    ),
    "an RPC is removed": ("RPC_NO_DELETE", TextEdit(ORDERS, "rpc Cancel(CancelRequest) returns (CancelResponse);", "")),
    "a service gets another name": ("SERVICE_NO_DELETE", TextEdit(LOYALTY, "service LoyaltyService", "service Points")),
    "a message gets another name": (
        "MESSAGE_NO_DELETE",
        TextEdit(ORDERS, "CancelRequest", "CancellationRequest"),
    ),
    "an enum gets another name": ("ENUM_NO_DELETE", TextEdit(LOYALTY, "ErrorReason", "Reason")),
    "a file moves": ("FILE_SAME_PACKAGE", TextEdit(LOYALTY, "package souk.loyalty.v1", "package souk.loyalty.v2")),
    "a field is removed, and its number not reserved": (
        "FIELD_NO_DELETE_UNLESS_NUMBER_RESERVED",
        TextEdit(ORDERS, "string status_reason = 3;", ""),
    ),
    "a field is removed, its number and name reserved": (
        "FIELD_NO_DELETE",
        TextEdit(ORDERS, "string status_reason = 3;", 'reserved 3; reserved "status_reason";'),
    ),
    "a field gets another name": ("FIELD_SAME_NAME", TextEdit(ORDERS, "int64 total = 12;", "int64 sum = 12;")),
    "a number becomes a text": (
        "FIELD_WIRE_JSON_COMPATIBLE_TYPE",
        TextEdit(RESERVATIONS, "int64 on_hand = 5;", "string on_hand = 5;"),
    ),
    "a number loses its sign": ("FIELD_SAME_TYPE", TextEdit(LOYALTY, "int64 points = 4;", "uint64 points = 4;")),
    "one becomes many": (
        "FIELD_WIRE_JSON_COMPATIBLE_CARDINALITY",
        TextEdit(ORDERS, "Refusal refusal = 4;", "repeated Refusal refusal = 4;"),
    ),
    "a field becomes optional": (
        "FIELD_SAME_CARDINALITY",
        TextEdit(ORDERS, "string status_reason = 3;", "optional string status_reason = 3;"),
    ),
    "a field moves into a oneof": (
        "FIELD_SAME_ONEOF",
        TextEdit(ORDERS, "  string detail = 4;\n}", "  oneof why { string detail = 4; }\n}"),
    ),
    "a oneof gets another name": ("ONEOF_NO_DELETE", TextEdit(ORDERS, "oneof outcome", "oneof decision")),
    "an enum's value is removed": (
        "ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED",
        TextEdit(ORDERS, "ORDER_STATUS_COMPLETED = 3;", ""),
    ),
    "an enum's value gets another name": (
        "ENUM_VALUE_SAME_NAME",
        TextEdit(ORDERS, "ORDER_STATUS_COMPLETED = 3;", "ORDER_STATUS_DONE = 3;"),
    ),
    "an RPC takes another message": (
        "RPC_SAME_REQUEST_TYPE",
        TextEdit(ORDERS, "rpc Cancel(CancelRequest)", "rpc Cancel(CompleteRequest)"),
    ),
    "an RPC gives another message": (
        "RPC_SAME_RESPONSE_TYPE",
        TextEdit(ORDERS, "returns (CancelResponse)", "returns (CompleteResponse)"),
    ),
    "an RPC becomes a stream": (
        "RPC_SAME_SERVER_STREAMING",
        TextEdit(ORDERS, "returns (ListResponse)", "returns (stream ListResponse)"),
    ),
    "a new field does not say what it means where it is not sent": (
        "FIELD_SAYS_DEFAULT",
        TextEdit(ORDERS, "message Order {", "message Order {\n  // A gift.\n  bool gift = 1000;\n"),
    ),
}


@pytest.mark.parametrize(("rule", "edit"), PROTOS.values(), ids=PROTOS)
def test_of_the_protos(rule: str, edit: TextEdit, tree: Contracts, tmp_path: Path) -> None:
    assert rule in {finding.rule for finding in protos.shrunk(tree, edited_copy(tmp_path, [edit]))}


WIRE = {
    "a field gets another number": (
        "WIRE_SAME_VALUE",
        "souk.orders.v1.Order.total",
        TextEdit(ORDERS, "int64 total = 12;", "int64 total = 99;"),
    ),
    "a number loses its sign": (
        "WIRE_SAME_VALUE",
        "souk.loyalty.v1.PutAccountRequest.points",
        TextEdit(LOYALTY, "int64 points = 4;", "uint64 points = 4;"),
    ),
    "a field becomes optional": (
        "WIRE_DEFAULT",
        "souk.orders.v1.Order.status_reason",
        TextEdit(ORDERS, "string status_reason = 3;", "optional string status_reason = 3;"),
    ),
    "a field is removed": (
        "WIRE_READABLE",
        "souk.orders.v1.HistoryEntry.detail",
        TextEdit(ORDERS, "string detail = 4;", ""),
    ),
    "a oneof gets a member": (
        "WIRE_ONEOF",
        "souk.orders.v1.CreateResponse.oneof outcome",
        TextEdit(ORDERS, "Refusal refusal = 2;\n  }", "Refusal refusal = 2;\n    string later = 1000;\n  }"),
    ),
}


@pytest.fixture(scope="module")
def misunderstood(tree: Contracts, tmp_path_factory: pytest.TempPathFactory) -> list[Finding]:
    """What is found where all of these edits are made at once: each shows at a place of its own."""
    edits = [edit for _, _, edit in WIRE.values()]
    return exchange.misunderstood(tree, edited_copy(tmp_path_factory.mktemp("edited"), edits, generated=True))


@pytest.mark.parametrize(("rule", "place"), [each[:2] for each in WIRE.values()], ids=WIRE)
def test_of_what_travels(rule: str, place: str, misunderstood: list[Finding]) -> None:
    assert (rule, place) in {(finding.rule, finding.place) for finding in misunderstood}


CODECS = {
    "what was not sent is made up": (
        "WIRE_DEFAULT",
        "souk.orders.v1.Order.currency",
        TextEdit(
            CODEC,
            'value = f"wire.{field.name}"',
            'value = f"wire.{field.name}" + " or \'EUR\'" * (field.name == "currency")',
        ),
    ),
    "unknown enum values are refused": (
        "WIRE_UNKNOWN_ENUM_VALUE",
        "souk.orders.v1.ListRequest",
        TextEdit(
            CODEC,
            'f"{field.type_name}({value})" if',
            'f"{{each.value: each for each in {field.type_name}}}[{value}]" if',
        ),
    ),
    "unknown enum values are taken for the first one": (
        "WIRE_UNKNOWN_ENUM_VALUE",
        "souk.orders.v1.ListRequest.status",
        TextEdit(
            CODEC,
            'f"{field.type_name}({value})" if',
            'f"{field.type_name}({value} if {value} in list({field.type_name}) else 0)" if',
        ),
    ),
    "unknown fields are refused": (
        "WIRE_UNKNOWN_FIELD",
        "souk.orders.v1.ListRequest",
        TextEdit(
            CODEC,
            "    return {snake}_from_wire(_{name}.FromString(data))",
            "    wire = _{name}.FromString(data)\n    known = wire.ByteSize()\n    wire.DiscardUnknownFields()\n"
            "    assert known == wire.ByteSize(), 'unknown fields'\n    return {snake}_from_wire(wire)",
        ),
    ),
}


@pytest.mark.parametrize(("rule", "place", "edit"), CODECS.values(), ids=CODECS)
def test_of_the_generated_codec(rule: str, place: str, edit: TextEdit, tree: Contracts, tmp_path: Path) -> None:
    found = exchange.misunderstood(tree, edited_copy(tmp_path, [edit], generated=True))
    assert (rule, place) in {(finding.rule, finding.place) for finding in found}


ORDERS_POST = ("paths", "/v1/orders", "post")
ORDER_REQUEST = ("components", "schemas", "OrderRequest")
ORDER = ("components", "schemas", "Order")
DOCUMENT = {
    "an operation is removed": ("OPERATION_REMOVED", ("paths", "/v1/orders", "get"), GONE),
    "a path is removed": ("OPERATION_REMOVED", ("paths", "/v1/items/{sku}/restock"), GONE),
    "an operation gets another name": ("OPERATION_ID_CHANGED", (*ORDERS_POST, "operationId"), "createOrder"),
    "authentication is asked for": ("SECURITY_CHANGED", ("security",), [{"token": []}]),
    "a parameter is removed": ("PARAMETER_REMOVED", ("paths", "/v1/orders", "get", "parameters", 0), GONE),
    "a parameter becomes required": (
        "PARAMETER_REQUIRED",
        ("components", "parameters", "IdempotencyKey", "required"),
        True,
    ),
    "there is a new parameter that is required": (
        "PARAMETER_REQUIRED",
        ("paths", "/v1/items/{sku}", "get", "parameters"),
        [{"name": "shop", "in": "query", "required": True, "schema": {"type": "string"}}],
    ),
    "a body becomes required": (
        "REQUEST_BODY_REQUIRED",
        ("paths", "/v1/orders/{id}/cancel", "post", "requestBody"),
        {"required": True, "content": {}},
    ),
    "a request may not be JSON any more": ("REQUEST_MEDIA_TYPE_REMOVED", (*ORDERS_POST, "requestBody", "content"), {}),
    "a request's property has another type": (
        "REQUEST_TYPE",
        (*ORDER_REQUEST, "properties", "redeem_points", "type"),
        "string",
    ),
    "a request may name fewer values": (
        "REQUEST_ENUM",
        ("paths", "/v1/orders", "get", "parameters", 1, "schema", "enum"),
        ["ACCEPTED", "CONFIRMED"],
    ),
    "a request may name some values only": (
        "REQUEST_ENUM",
        ("components", "schemas", "Identifier", "enum"),
        ["c-1"],
    ),
    "a request may be only so large": ("REQUEST_LIMIT", (*ORDER_REQUEST, "properties", "lines", "maxItems"), 10),
    "a request must be larger": ("REQUEST_LIMIT", ("components", "schemas", "Identifier", "minLength"), 3),
    "a request's text has another pattern": ("REQUEST_LIMIT", ("components", "schemas", "Name", "pattern"), "^[a-z]+$"),
    "a request's text has a format": ("REQUEST_LIMIT", ("components", "schemas", "Identifier", "format"), "uuid"),
    "what is left out means something else": (
        "REQUEST_DEFAULT",
        ("components", "parameters", "PageSize", "schema", "default"),
        10,
    ),
    "a request's schema says what nobody understands": (
        "REQUEST_NOT_UNDERSTOOD",
        (*ORDER_REQUEST, "dependentRequired"),
        {"lines": ["redeem_points"]},
    ),
    "a request's property is removed": (
        "REQUEST_PROPERTY_REMOVED",
        (*ORDER_REQUEST, "properties", "redeem_points"),
        GONE,
    ),
    "a request's property becomes required": (
        "REQUEST_PROPERTY_REQUIRED",
        (*ORDER_REQUEST, "required"),
        ["customer_id", "lines", "redeem_points"],
    ),
    "a success has another status": (
        "RESPONSE_STATUS_ADDED",
        (*ORDERS_POST, "responses", "202"),
        {"description": "Later."},
    ),
    "a status is removed": ("RESPONSE_STATUS_REMOVED", (*ORDERS_POST, "responses", "409"), GONE),
    "a header is removed": ("RESPONSE_HEADER_REMOVED", (*ORDERS_POST, "responses", "201", "headers", "Location"), GONE),
    "a header becomes optional": (
        "RESPONSE_HEADER_OPTIONAL",
        ("components", "headers", "SoukServedBy", "required"),
        False,
    ),
    "an answer is not JSON any more": (
        "RESPONSE_MEDIA_TYPE_REMOVED",
        (*ORDERS_POST, "responses", "201", "content"),
        {"text/csv": {}},
    ),
    "an answer's property has another type": ("RESPONSE_TYPE", (*ORDER, "properties", "total", "type"), "number"),
    "an answer's property may be null": (
        "RESPONSE_TYPE",
        (*ORDER, "properties", "currency", "type"),
        ["string", "null"],
    ),
    "an answer may name more values": (
        "RESPONSE_ENUM",
        (*ORDER, "properties", "status", "enum"),
        ["ACCEPTED", "CONFIRMED", "COMPLETED", "CANCELLED", "UNKNOWN", "RETURNED"],
    ),
    "an answer may name any value": ("RESPONSE_ENUM", (*ORDER, "properties", "status", "enum"), GONE),
    "an answer's text has no format any more": ("RESPONSE_LIMIT", (*ORDER, "properties", "id", "format"), GONE),
    "an answer's number may be larger": (
        "RESPONSE_LIMIT",
        ("components", "schemas", "Problem", "properties", "status", "maximum"),
        999,
    ),
    "an answer's schema says what nobody understands": ("RESPONSE_NOT_UNDERSTOOD", (*ORDER, "oneOf"), [{}]),
    "an answer's property is removed": ("RESPONSE_PROPERTY_REMOVED", (*ORDER, "properties", "without_loyalty"), GONE),
    "a part of an answer's property is removed": (
        "RESPONSE_PROPERTY_REMOVED",
        (*ORDER, "properties", "lines", "items", "properties", "name"),
        GONE,
    ),
    "an answer's property may be missing": ("RESPONSE_PROPERTY_OPTIONAL", (*ORDER, "required"), ["id"]),
}


@pytest.mark.parametrize(("rule", "place", "value"), DOCUMENT.values(), ids=DOCUMENT)
def test_of_the_rest_contract(rule: str, place: tuple[str | int, ...], value: object, document: Any) -> None:
    after = DocumentEdit(place, value).apply(document)
    assert {finding.rule for finding in openapi.compared(document, after)} == {rule}


CLOSED = {
    "a request may have no further members": ("REQUEST_CLOSED", "requestBody"),
    "an answer may have further members": ("RESPONSE_OPENED", "responses"),
}


@pytest.mark.parametrize(("rule", "side"), CLOSED.values(), ids=CLOSED)
def test_of_objects_that_are_open_or_closed(rule: str, side: str) -> None:
    def document(*, closed: bool) -> dict[str, Any]:
        schema = {"type": "object", "additionalProperties": not closed}
        content = {"content": {"application/json": {"schema": schema}}}
        operation = {"responses": {"200": content}} if side == "responses" else {side: content, "responses": {}}
        return {"paths": {"/": {"post": operation}}}

    found = openapi.compared(document(closed=side == "responses"), document(closed=side == "requestBody"))
    assert [finding.rule for finding in found] == [rule]


def test_of_the_files(tree: Contracts, tmp_path: Path) -> None:
    copytree(tree.openapi, tmp_path / "openapi")
    (tmp_path / OPENAPI).rename(tmp_path / "openapi" / "gateway.v2.yaml")
    assert [finding.rule for finding in openapi.shrunk(tree.openapi, tmp_path / "openapi")] == ["FILE_REMOVED"]
