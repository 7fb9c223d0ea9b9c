"""Edits that nobody notices who does not want to: none is caught by any check."""

from pathlib import Path
from typing import Any

import pytest
from growing import exchange, openapi, protos
from growing.versions import Contracts

from tests.growth.edits import GONE, LOYALTY, ORDERS, RESERVATIONS, DocumentEdit, TextEdit, edited_copy


def new_in(file: str, message: str, lines: str) -> TextEdit:
    """Puts lines at the beginning of a message, an enum or a service."""
    return TextEdit(file, f"{message} {{\n", f"{message} {{\n{lines}\n")


PROTOS = {
    "a new RPC": new_in(
        LOYALTY,
        "service LoyaltyService",
        "  // As GetAccount.\n  rpc FindAccount(GetAccountRequest) returns (GetAccountResponse);",
    ),
    "a new message": TextEdit(LOYALTY, "message Account {", "message Ping {}\n\nmessage Account {"),
    "a new text": new_in(ORDERS, "message Order", "  // Of the customer; empty for none.\n  string gift_text = 1000;"),
    "a new number": new_in(RESERVATIONS, "message Item", "  // Grams; 0 if not known.\n  int64 weight = 1000;"),
    "a new list": new_in(ORDERS, "message GetResponse", "  // Empty for none.\n  repeated string tags = 1000;"),
    "a new map": new_in(
        ORDERS, "message ListResponse", "  // By id; empty for none.\n  map<string, Refusal> refusals = 1000;"
    ),
    "a new message in a message": new_in(
        ORDERS, "message CancelResponse", "  // Absent where nobody asked.\n  Refusal refusal = 1000;"
    ),
    "a new field that may be absent": new_in(
        LOYALTY, "message Account", "  // Absent where the tier does not end.\n  optional int64 ends_at_us = 1000;"
    ),
    "a new oneof": new_in(
        ORDERS,
        "message CompleteRequest",
        "  oneof proof {\n    // Absent for none.\n    string name = 1000;\n"
        "    // Absent for none.\n    bytes picture = 1001;\n  }",
    ),
    "a new value of an enum": TextEdit(
        LOYALTY, "TIER_UNSPECIFIED = 0;", "TIER_UNSPECIFIED = 0;\n  // The most.\n  TIER_PLATINUM = 1000;"
    ),
    "a new enum, and a field of it": TextEdit(
        RESERVATIONS,
        "message PutItemRequest {",
        "// How it travels.\nenum Parcel {\n  PARCEL_UNSPECIFIED = 0;\n  // In a box.\n  PARCEL_BOX = 1;\n}\n\n"
        "message PutItemRequest {\n  // Unspecified for any.\n  Parcel parcel = 1000;",
    ),
    "other words in a comment": TextEdit(ORDERS, "// Minor units: the sum of the lines.", "// The sum of the lines."),
    "fields in another order": TextEdit(
        ORDERS, "  string sku = 1;\n  string name = 2;\n", "  string name = 2;\n  string sku = 1;\n"
    ),
    "a field that is deprecated": TextEdit(ORDERS, "int64 total = 12;", "int64 total = 12 [deprecated = true];"),
    "a number that is reserved": new_in(RESERVATIONS, "message Line", "  reserved 1000 to 1010;"),
}


@pytest.mark.parametrize("edit", PROTOS.values(), ids=PROTOS)
def test_of_the_protos(edit: TextEdit, tree: Contracts, tmp_path: Path) -> None:
    assert protos.shrunk(tree, edited_copy(tmp_path, [edit])) == []


def test_of_what_travels_with_all_edits_at_once(tree: Contracts, tmp_path: Path) -> None:
    assert exchange.misunderstood(tree, edited_copy(tmp_path, PROTOS.values(), generated=True)) == []


ORDERS_POST = ("paths", "/v1/orders", "post")
ORDER_REQUEST = ("components", "schemas", "OrderRequest")
ORDER = ("components", "schemas", "Order")
ANSWER = {"responses": {"200": {"description": "Done."}}}
DOCUMENT: dict[str, tuple[tuple[str | int, ...], object]] = {
    "a new path": (("paths", "/v1/shops"), {"get": ANSWER}),
    "a new operation of a path": (("paths", "/v1/items/{sku}", "delete"), ANSWER),
    "a new parameter": (
        ("paths", "/v1/items/{sku}", "get", "parameters"),
        [{"name": "shop", "in": "query", "schema": {"type": "string"}}],
    ),
    "a new body that may be left out": (
        ("paths", "/v1/orders/{id}/cancel", "post", "requestBody"),
        {"content": {"application/json": {"schema": {"type": "object"}}}},
    ),
    "a new property of a request": ((*ORDER_REQUEST, "properties", "gift_text"), {"type": "string", "maxLength": 200}),
    "a property that a request may leave out": ((*ORDER_REQUEST, "required"), ["lines"]),
    "a request may be larger": ((*ORDER_REQUEST, "properties", "lines", "maxItems"), 1000),
    "a request may be of any length": (("components", "schemas", "Name", "maxLength"), GONE),
    "a request may be null, too": ((*ORDER_REQUEST, "properties", "redeem_points", "type"), ["integer", "null"]),
    "a request may name more values": (
        ("paths", "/v1/orders", "get", "parameters", 1, "schema", "enum"),
        ["ACCEPTED", "CONFIRMED", "COMPLETED", "CANCELLED", "RETURNED"],
    ),
    "a request may come in another form, too": ((*ORDERS_POST, "requestBody", "content", "application/cbor"), {}),
    "a new property of an answer": ((*ORDER, "properties", "gift_text"), {"type": "string"}),
    "a property that an answer always has now": (
        ("components", "schemas", "OrderWithHistory", "allOf", 1, "properties", "history", "items", "required"),
        ["step", "at", "by", "detail"],
    ),
    "a new header": (
        (*ORDERS_POST, "responses", "201", "headers", "ETag"),
        {"schema": {"type": "string"}},
    ),
    "a new problem": ((*ORDERS_POST, "responses", "429"), {"description": "Too many."}),
    "an answer names fewer values": ((*ORDER, "properties", "status", "enum"), ["ACCEPTED", "CONFIRMED"]),
    "an answer says more of its texts": ((*ORDER, "properties", "currency", "pattern"), "^[A-Z]{3}$"),
    "other words": (("info", "description"), "Takes orders."),
    "an example": ((*ORDER, "example"), GONE),
    "an operation that is deprecated": (("paths", "/order", "post", "deprecated"), True),
    "a schema that stands where it is used": (
        ("components", "schemas", "OrderRequest", "properties", "customer_id"),
        {"type": "string", "minLength": 1, "maxLength": 64, "pattern": r"^(?!\.\.?$)[A-Za-z0-9._-]{1,64}$"},
    ),
}


@pytest.mark.parametrize(("place", "value"), DOCUMENT.values(), ids=DOCUMENT)
def test_of_the_rest_contract(place: tuple[str | int, ...], value: object, document: Any) -> None:
    assert openapi.compared(document, DocumentEdit(place, value).apply(document)) == []
