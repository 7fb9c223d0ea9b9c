"""What an image holds, and what it does not."""

import json
import subprocess

import pytest

SERVICES = ("gateway", "orders", "reservations", "loyalty")

pytestmark = [pytest.mark.containers, pytest.mark.usefixtures("images")]


def docker(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def image(service: str) -> str:
    found = docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"souk/{service}").split()
    assert found, f"no image of {service}"
    return found[0]


def files(service: str) -> list[str]:
    container = docker("create", image(service)).strip()
    try:
        listed = subprocess.run(
            ["bash", "-c", f"docker export {container} | tar --list"], capture_output=True, text=True, check=True
        )
    finally:
        docker("rm", container)
    return listed.stdout.splitlines()


def layers(service: str) -> list[str]:
    found: list[str] = json.loads(docker("inspect", image(service)))[0]["RootFS"]["Layers"]
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_no_shell_and_no_package_manager(service: str) -> None:
    names = {path.rpartition("/")[2] for path in files(service)}
    assert not names & {"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "pip", "ensurepip", "su", "mount"}
    assert "python3.13" in names


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_its_own_service_and_no_other(service: str) -> None:
    packages = {part for path in files(service) for part in path.split("/") if part.startswith("souk_")}
    assert {name.partition("-")[0] for name in packages} == {"souk_contracts", f"souk_{service}"}


def test_all_images_share_the_same_python() -> None:
    assert len({layers(service)[0] for service in SERVICES}) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_needs_no_privilege_and_no_writable_root(service: str) -> None:
    hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"]
    assert docker("run", "--rm", *hardened, image(service), "--version").strip().count(".") == 2
    config = json.loads(docker("inspect", image(service)))[0]["Config"]
    assert config["User"] == "65532:65532"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_within_its_limits_and_the_build_says_so(service: str, images: str) -> None:
    """28 MB gzipped, 75 MB unpacked, and 64 KiB for what a change of a service's code changes."""
    (row,) = [line for line in images.splitlines() if line.startswith(f"souk/{service}:")]
    app, app_unit, gzipped, gzipped_unit, unpacked, unpacked_unit = row.split()[-6:]
    assert (app_unit, gzipped_unit, unpacked_unit) == ("KiB", "MB", "MB")
    assert float(app) <= 64
    assert float(gzipped) <= 28
    assert float(unpacked) <= 75
