"""What an image holds, and what it does not."""

import json
import subprocess

import pytest
from imaging.origin import from_tree
from releasing import version

SERVICES = ("gateway", "orders", "reservations", "loyalty")

pytestmark = pytest.mark.containers

INSTALLED = """
import importlib.metadata, json, pathlib
from email import message_from_string
debian = [message_from_string(path.read_text()) for path in pathlib.Path("/var/lib/dpkg/status.d").iterdir()]
print(json.dumps({
    "debian": {each["Package"]: each["Version"] for each in debian},
    "python": {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()},
}))
"""


def docker(*arguments: str, code: int = 0) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.fixture
def image(images: str, service: str) -> str:
    """The name of a service's image."""
    (name,) = [line.split()[0] for line in images.splitlines() if line.startswith(f"souk/{service}:")]
    return name


def files(image: str) -> list[str]:
    container = docker("create", image).strip()
    try:
        listed = subprocess.run(
            ["bash", "-c", f"docker export {container} | tar --list"], capture_output=True, text=True, check=True
        )
    finally:
        docker("rm", container)
    return listed.stdout.splitlines()


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_no_shell_and_no_package_manager(image: str) -> None:
    names = {path.rpartition("/")[2] for path in files(image)}
    assert not names & {"sh", "bash", "dash", "busybox", "apt", "apt-get", "dpkg", "pip", "ensurepip", "su", "mount"}
    assert "python3.13" in names


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_its_own_service_and_no_other(service: str, image: str) -> None:
    packages = {part for path in files(image) for part in path.split("/") if part.startswith("souk_")}
    assert {name.partition("-")[0] for name in packages} == {"souk_contracts", f"souk_{service}"}


def test_all_images_share_the_same_python(images: str) -> None:
    names = [line.split()[0] for line in images.splitlines() if line.startswith("souk/")]
    assert len({json.loads(docker("inspect", name))[0]["RootFS"]["Layers"][0] for name in names}) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_needs_no_privilege_and_no_writable_root(image: str) -> None:
    hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"]
    version.order(docker("run", "--rm", *hardened, image, "--version").strip())  # nothing else is one
    config = json.loads(docker("inspect", image))[0]["Config"]
    assert config["User"] == "65532:65532"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_within_its_limits_and_the_build_says_so(service: str, images: str) -> None:
    """28 MB gzipped, 75 MB unpacked, and 128 KiB for what a change of a service's code changes."""
    (row,) = [line for line in images.splitlines() if line.startswith(f"souk/{service}:")]
    app, app_unit, gzipped, gzipped_unit, unpacked, unpacked_unit = row.split()[-6:]
    assert (app_unit, gzipped_unit, unpacked_unit) == ("KiB", "MB", "MB")
    assert float(app) <= 128
    assert float(gzipped) <= 28
    assert float(unpacked) <= 75


@pytest.mark.parametrize("service", [*SERVICES, "single"])
def test_an_image_says_what_it_is_and_which_commit_it_comes_from(service: str, image: str) -> None:
    origin = from_tree(service)
    config = json.loads(docker("inspect", image))[0]
    said = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Config"]["Labels"].items()}
    assert said == {
        "title": f"souk-{service}",
        "version": origin.version,
        "base.name": said["base.name"],
        "revision": origin.revision,
        "created": origin.created,
        "source": "https://github.com/souk-shop/souk",
        "licenses": "Apache-2.0",
    }
    assert config["Created"] == origin.created
    assert image == origin.name
    runtime = json.loads(docker("inspect", said["base.name"]))[0]["RootFS"]["Layers"]
    assert json.loads(docker("inspect", image))[0]["RootFS"]["Layers"][:1] == runtime


@pytest.mark.parametrize("service", [*SERVICES, "single"])
def test_an_image_carries_a_bill_of_what_it_holds(service: str, image: str) -> None:
    told = subprocess.run(["scripts/images", "sbom", service], capture_output=True, text=True, check=True).stdout
    bill = json.loads(told)
    held = json.loads(docker("run", "--rm", "--entrypoint=/usr/bin/python3.13", image, "-c", INSTALLED))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["component"]["version"] == from_tree(service).version
    debian = [each for each in bill["components"] if each["purl"].startswith("pkg:deb/debian/")]
    python = [each for each in bill["components"] if each["purl"].startswith(("pkg:pypi/", "pkg:generic/souk-"))]
    assert len(debian) + len(python) == len(bill["components"])
    assert {each["name"]: each["version"] for each in debian} == held["debian"]
    names = {name.lower().replace("_", "-"): version for name, version in held["python"].items()}
    assert {each["name"]: each["version"] for each in python} == names
    assert all(len(each["hashes"][0]["content"]) == 64 for each in debian)
    assert all("licenses" in each for each in python)
    assert len({each["purl"] for each in bill["components"]}) == len(bill["components"])
