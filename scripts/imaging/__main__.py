"""Builds the services' images, and pushes them.

  build [image ...]  builds, tags and weighs images; the four services' when none is named. The working tree's are
                     souk/orders:1.2.0.dev7-g2a7b2b4 and souk/orders:tree; fails when one is over its limits. A release
                     is souk/orders:1.2.0-r1, and 1.2.0, 1.2 and 1 where that is the newest.
  push image ...     pushes images that were built to $SOUK_REGISTRY, and prints their digests.
  sbom image         prints what is in an image that was built, as CycloneDX JSON.
  lock               pins the versions of Debian's packages that its mirror has now, in images/debian-packages.lock.

An image is orders, reservations, loyalty, gateway or single (all four in one) as they are in the working tree, or a
release such as orders@1.0.0. Each is put on a runtime, Debian's Python and its libraries, of the newest packages that
Debian has on the day. Needs Docker with buildx, git, and Python 3.11 or later.

  SOUK_REGISTRY      where `push` pushes to, as in localhost:5000
  SOUK_BUILDS        the list of the builds of releases (builds.toml)
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from releasing.build import CannotBuild
from releasing.ledger import ROOT, SERVICES, Ledger, NotReleased

from imaging import bake, registry, weight
from imaging.origin import Image, parse


def build(images: Sequence[Image], ledger: Ledger, options: bake.Options) -> None:
    """Builds images, and prints what they weigh. What is released already is not held to the limits of today."""
    over = weight.report(weight.weigh(bake.build(images, ledger, options)))
    if grown := [image.name for image in images if image.release is None and image.name in over]:
        raise CannotBuild(f"{' and '.join(grown)} weighs more than the limits in the last line allow.")


def push(images: Sequence[Image]) -> None:
    """Pushes images to the registry that the environment names."""
    host = os.environ.get("SOUK_REGISTRY", "").rstrip("/")
    if not host:
        raise registry.CannotPush("SOUK_REGISTRY is not set. Name a registry, as in SOUK_REGISTRY=localhost:5000")
    for image in images:
        registry.push(image, host)


def sbom(images: Sequence[Image]) -> None:
    """Prints images' bills of materials."""
    for image in images:
        python = ["--entrypoint=/usr/bin/python3.13", image.name, "-c", "print(open('/sbom.cdx.json').read())"]
        subprocess.run(["docker", "run", "--rm", "--network=none", "--pull=never", *python], check=True)


def lock() -> None:
    """Writes the lock, if the mirror has all that it is to say."""
    (ROOT / "images/debian-packages.lock").write_text(bake.lock())


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(
        "images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build")
    building.add_argument("images", metavar="image", nargs="*", default=SERVICES)
    building.add_argument("--no-cache", action="store_true", help="build each layer anew, which gives the same bytes")
    building.add_argument(
        "--locked", action="store_true",
        help="put images on exactly the packages that images/debian-packages.lock pins (a release: its own lock), to "
        "reproduce an image bit for bit",
    )  # fmt: skip
    building.add_argument(
        "--mirror", action="append", default=[], metavar="URL",
        help="where locked packages come from, such as a snapshot archive: a URL, 'URL SUITE COMPONENT' or the "
        "absolute path of a folder; may be repeated (default: Debian's mirror, which keeps the newest packages only)",
    )  # fmt: skip
    commands.add_parser("push").add_argument("images", metavar="image", nargs="+")
    commands.add_parser("sbom").add_argument("images", metavar="image", nargs=1)
    commands.add_parser("lock")
    options = parser.parse_args()
    if getattr(options, "mirror", None) and not options.locked:
        parser.error("--mirror needs --locked: the newest packages come from Debian's own mirror")
    try:
        ledger = Ledger()
        images = [parse(text, ledger) for text in getattr(options, "images", ())]
        match options.command:
            case "build":
                build(images, ledger, bake.Options(options.no_cache, options.locked, tuple(options.mirror)))
            case "push":
                push(images)
            case "sbom":
                sbom(images)
            case "lock":
                lock()
    except (CannotBuild, NotReleased, registry.CannotPush) as error:
        sys.exit(str(error))
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is not installed")
    except subprocess.CalledProcessError as error:
        sys.exit(f"'{' '.join(map(str, error.cmd[:3]))}' failed")


if __name__ == "__main__":
    main()
