"""Settings: what the environment may say, and what is said about what it may not."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from souk_gateway.settings import BadSetting, Settings
from souk_gateway.targets import SERVICES, Target
from souk_gateway.targets_file import TargetsFile


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings()
    assert Settings.from_environment({"SOUK_DEADLINE_S": " "}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SOUK_GATEWAY_ADDRESS", "0.0.0.0:80", {"host": "0.0.0.0", "port": 80}),
        ("SOUK_GATEWAY_ADDRESS", "[::]:8080", {"host": "::", "port": 8080}),
        ("SOUK_TARGETS_FILE", "/etc/souk/targets.toml", {"targets_file": Path("/etc/souk/targets.toml")}),
        (
            "SOUK_CORS_ORIGINS",
            "https://a.example, http://b:3000,",
            {"cors_origins": ("https://a.example", "http://b:3000")},
        ),
        ("SOUK_CORS_ORIGINS", "*", {"cors_origins": ("*",)}),
        ("SOUK_LOYALTY_REQUIRED", "False", {"loyalty_required": False}),
        ("SOUK_DEADLINE_S", "0.5", {"deadline_s": 0.5}),
        ("SOUK_LOG_LEVEL", "DEBUG", {"log_level": "debug"}),
    ],
)
def test_each_variable_sets_its_setting(name: str, value: str, expected: dict[str, object]) -> None:
    assert Settings.from_environment({name: value}) == replace(Settings(), **expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders:1", (Target("orders:1"),)),
        ("[::1]:50051", (Target("[::1]:50051"),)),
        ("dns:///orders:1", (Target("dns:///orders:1"),)),
        ("unix:/run/orders", (Target("unix:/run/orders"),)),
        ("ipv4:///10.0.0.1:1,10.0.0.2:1", (Target("ipv4:///10.0.0.1:1,10.0.0.2:1"),)),
        (
            "1.0.0=orders:1;0, 1.2.0.dev7+g2a7b2b4.dirty=dns:///o:2;7",
            (Target("orders:1", "1.0.0", 0), Target("dns:///o:2", "1.2.0.dev7+g2a7b2b4.dirty", 7)),
        ),
    ],
)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_one_target_or_several_with_weights(
    service: str, text: str, expected: tuple[Target, ...]
) -> None:
    read = Settings.from_environment({f"SOUK_{service.upper()}_TARGET": text}).targets
    assert read == {**Settings().targets, service: expected}


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("SOUK_GATEWAY_ADDRESS", "8080", "host:port"),
        ("SOUK_GATEWAY_ADDRESS", "localhost:65536", "host:port"),
        ("SOUK_ORDERS_TARGET", "orders", "host:port"),
        ("SOUK_ORDERS_TARGET", "orders:65536", "host:port"),
        ("SOUK_ORDERS_TARGET", "orders:1,orders:2", "versions with weights"),
        ("SOUK_ORDERS_TARGET", "1.0.0=orders:1", "versions with weights"),
        ("SOUK_ORDERS_TARGET", "1.0.0=dns:///orders:1", "versions with weights"),
        ("SOUK_ORDERS_TARGET", "1.0.0=orders:1;90,", "versions with weights"),
        ("SOUK_ORDERS_TARGET", "1.0.0=orders;90", "versions with weights"),
        ("SOUK_ORDERS_TARGET", "1.0.0=orders:1;-1", "versions with weights"),
        ("SOUK_ORDERS_TARGET", "1.0.0=orders:1;0.5", "versions with weights"),
        ("SOUK_LOYALTY_TARGET", "1.0.0=a:1;1,1.0.0=b:1;1", "each version once"),
        ("SOUK_LOYALTY_TARGET", "1.0.0=a:1;0,1.1.0=b:1;0", "at least one weight above 0"),
        ("SOUK_CORS_ORIGINS", "shop.example", "origins"),
        ("SOUK_CORS_ORIGINS", "https://shop.example/", "origins"),
        ("SOUK_LOYALTY_REQUIRED", "yes", "true or false"),
        ("SOUK_DEADLINE_S", "0", "seconds"),
        ("SOUK_DEADLINE_S", "61", "seconds"),
        ("SOUK_DEADLINE_S", "nan", "seconds"),
        ("SOUK_DEADLINE_S", "5s", "seconds"),
        ("SOUK_LOG_LEVEL", "loud", "one of debug, info"),
    ],
)
def test_a_bad_value_is_told_with_its_name_and_what_is_wanted(name: str, value: str, wanted: str) -> None:
    with pytest.raises(BadSetting, match=wanted) as raised:
        Settings.from_environment({name: value})
    assert str(raised.value).startswith(f"{name} is {value!r}; it must be ")


def run(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "souk_gateway", *command.split()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_bad_setting_ends_the_process_with_one_sentence_and_code_2() -> None:
    result = run("serve", SOUK_DEADLINE_S="soon")
    assert result.returncode == 2
    assert result.stderr == "SOUK_DEADLINE_S is 'soon'; it must be seconds, above 0 and at most 60.\n"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "a readable file (No such file or directory)"),
        ('orders = "', "a TOML file ("),
        ('orders = "o:1"', "a file that names orders, reservations, loyalty and nothing else (it names orders)."),
        ("", "a file that names orders, reservations, loyalty and nothing else (it names nothing)."),
    ],
)
def test_a_file_of_targets_that_is_wrong_at_the_start_ends_the_process(
    tmp_path: Path, content: str | None, wanted: str
) -> None:
    path = tmp_path / "targets.toml"
    if content is not None:
        path.write_text(content)
    result = run("serve", SOUK_TARGETS_FILE=str(path), SOUK_GATEWAY_ADDRESS="127.0.0.1:0")
    assert result.returncode == 2
    assert result.stderr.startswith(f"SOUK_TARGETS_FILE is '{path}'; it must be {wanted}")
    assert result.stderr.count("\n") == 1


def test_a_file_of_targets_that_the_process_may_not_read_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path, mode: str) -> None:
        raise PermissionError  # root, whom tests may run as, reads everything

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadSetting, match=r"user \d+ may not read it; run: chmod o\+rX on the file and its folder"):
        TargetsFile(tmp_path / "targets.toml", lambda _: None).load()


@pytest.mark.parametrize("target", ['"1.0.0=orders:1;0"', '"orders"', "50051"])
def test_a_target_in_the_file_that_makes_no_sense_is_told_with_its_service(tmp_path: Path, target: str) -> None:
    path = tmp_path / "targets.toml"
    path.write_text(f'reservations = "r:1"\nloyalty = "l:1"\norders = {target}\n')
    result = run("serve", SOUK_TARGETS_FILE=str(path), SOUK_GATEWAY_ADDRESS="127.0.0.1:0")
    assert result.returncode == 2
    assert result.stderr.startswith(f"orders in {path} is {target.replace(chr(34), chr(39))}; it must be host:port ")


@pytest.mark.parametrize("command", ["", "dance", "serve now"])
def test_a_command_that_does_not_exist_shows_those_that_do(command: str) -> None:
    result = run(command)
    assert result.returncode == 2
    assert "serve" in result.stderr
    assert "health" in result.stderr
