"""What the generator refuses, it refuses with a sentence that says what to write instead."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONTRACTS = Path(__file__).parents[1]
HEAD = 'syntax = "proto3";\npackage souk.shop.v1;\n'
SERVICE = "service ShopService { rpc Buy(BuyRequest) returns (BuyResponse); }\n"
MESSAGES = "message BuyRequest { string what = 1; }\nmessage BuyResponse {}\n"


@pytest.fixture
def generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Generates a package from the text of one .proto file; gives the package's folder."""
    monkeypatch.syspath_prepend(str(CONTRACTS))

    def run(proto: str) -> Path:
        from generator import generate as generate_

        protos = tmp_path / "proto"
        (protos / "souk/shop/v1").mkdir(parents=True)
        (protos / "souk/shop/v1/shop.proto").write_text(proto)
        package = tmp_path / "souk_contracts"
        package.mkdir()
        generate_(protos, tmp_path, package)
        return package / "shop" / "v1"

    return run


@pytest.mark.parametrize(
    ("proto", "sentence"),
    [
        (HEAD + MESSAGES, "declares 0 services, and should declare one"),
        (HEAD.replace("souk.shop.v1", "shop") + SERVICE + MESSAGES, "should be souk.<service>.v<N>"),
        (HEAD + SERVICE.replace("(Buy", "(stream Buy", 1) + MESSAGES, "ShopService.Buy: streams in one direction"),
        (HEAD + SERVICE + MESSAGES + "message A { message B {} }", "A: declare nested messages"),
        (HEAD + SERVICE + MESSAGES + "message A { string class = 1; }", "A.class: a Python keyword"),
        (
            HEAD
            + 'import "google/protobuf/timestamp.proto";\n'
            + SERVICE
            + MESSAGES
            + "message A { google.protobuf.Timestamp at = 1; }",
            "A.at: google.protobuf.Timestamp is declared in another package",
        ),
    ],
)
def test_what_is_not_supported_is_refused_in_a_sentence(
    generate: Callable[[str], Path], proto: str, sentence: str
) -> None:
    with pytest.raises(Exception, match=sentence) as refusal:
        generate(proto)
    assert type(refusal.value).__name__ == "UnsupportedProto"


def test_a_stream_in_both_directions_is_left_to_code_that_is_written_by_hand(generate: Callable[[str], Path]) -> None:
    stream = SERVICE.replace("(Buy", "(stream Buy", 1).replace("returns (", "returns (stream ", 1)
    package = generate(HEAD + stream + MESSAGES)
    assert sorted(path.name for path in package.iterdir()) == ["__init__.py", "codec.py", "messages.py"]


def test_a_mistake_in_a_proto_file_stops_the_build(generate: Callable[[str], Path]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        generate(HEAD + "message {")


def run_generated(folder: Path, code: str) -> Any:
    """Runs code in a process of its own, where the generated package stands in for the real one's."""
    program = (
        "import sys, souk_contracts\n"
        f"souk_contracts.__path__.insert(0, {str(folder.parents[1])!r})\n"
        "from souk_contracts.shop.v1 import *\nfrom souk_contracts.shop.v1 import codec, rpc\n" + code
    )
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def test_every_kind_of_field_survives_the_wire(generate: Callable[[str], Path]) -> None:
    folder = generate(
        HEAD
        + SERVICE
        + """
        // What happened.
        enum Kind { KIND_UNSPECIFIED = 0; KIND_GOOD = 1; }
        message Part { string name = 1; Part inner = 2; }
        message BuyRequest {
          optional int32 maybe = 1;
          repeated int64 numbers = 2;
          repeated Kind kinds = 3;
          map<string, Part> parts = 4;
          map<int32, Kind> by_number = 5;
          oneof choice { string text = 6; Part part = 7; uint64 number = 8; Kind kind = 9; }
          double ratio = 10;
          bytes raw = 11;
          repeated Part list = 12;
          Part one = 13;
          sint32 negative = 14;
          fixed64 wide = 15;
          Kind single = 16;
        }
        message BuyResponse {}
        """
    )
    assert (
        run_generated(
            folder,
            """
part = Part(name="a", inner=Part(name="b"))
full = BuyRequest(maybe=0, numbers=[1, -2], kinds=[Kind.GOOD], parts={"x": part}, by_number={7: Kind.GOOD},
    ratio=0.5, raw=b"\\0", list=[part, Part()], one=part, negative=-3, wide=2**63, single=Kind.GOOD)
again = lambda m: codec.decode_buy_request(codec.encode_buy_request(m))
assert again(full) == full and again(full).maybe == 0
assert again(BuyRequest()).maybe is None and again(BuyRequest()).one is None
for choice in (dict(text=""), dict(part=Part()), dict(number=0), dict(kind=Kind.UNSPECIFIED)):
    assert again(BuyRequest(**choice)) == BuyRequest(**choice), choice
    (name, value), = choice.items()
    assert getattr(again(BuyRequest(**choice)), name) == value
print("ok")
""",
        )
        == "ok"
    )


def test_what_the_proto_says_is_what_the_reader_of_the_python_sees(generate: Callable[[str], Path]) -> None:
    folder = generate(
        HEAD
        + """
        // Sells things.
        service ShopService {
          // Buys one.
          // Errors: SOLD_OUT.
          rpc Buy(BuyRequest) returns (BuyResponse);
        }
        message BuyRequest {
          // The thing to buy.
          string what = 1;
        }
        message BuyResponse {}
        """
    )
    assert run_generated(folder, "print(ShopServicer.SERVICE_NAME)") == "souk.shop.v1.ShopService"
    assert run_generated(folder, "print(ShopServicer.buy.__doc__)").split() == ["Buys", "one.", "Errors:", "SOLD_OUT."]
    assert "Sells things." in run_generated(folder, "print(ShopStub.__doc__)")
    assert "The thing to buy." in (folder / "messages.py").read_text()
