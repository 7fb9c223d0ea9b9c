"""Prints an image's software bill of materials, CycloneDX 1.5: `sbom.py NAME VERSION LOCK FOLDER...`.

The FOLDERs are the image's layers; LOCK is debian-packages.lock, which knows the packages' hashes; bundled.toml, which
lies beside this file, knows the libraries inside wheels. The same layers give the same bytes: there is no time in it,
and no random serial number.
"""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from email import message_from_string
from fnmatch import fnmatch
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]
FOLDERS_OF_PYTHON = ("dependencies", "contracts", "app")
BUNDLED = Path(__file__).with_name("bundled.toml")


class Unrecorded(Exception):
    """Nobody has said what a wheel bundles; the text is a sentence that says what to do."""


def debian(layer: Path, hashes: dict[tuple[str, str, str], str]) -> Iterator[Component]:
    """The Debian packages of a layer."""
    for path in (layer / "var/lib/dpkg/status.d").glob("*"):
        fields = message_from_string(path.read_text())
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        source = f"&upstream={quote(fields['Source'].split()[0], safe='')}" if fields["Source"] else ""
        yield {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?arch={architecture}{source}",
            "hashes": [{"alg": "SHA-256", "content": hashes[architecture, name, version]}],
        }


def python(layer: Path) -> Iterator[Component]:
    """The Python packages of a layer, with what wheels say that they bundle."""
    for distribution in distributions(path=[str(layer / folder) for folder in FOLDERS_OF_PYTHON]):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        kind = "generic" if name.startswith("souk-") else "pypi"  # ours are on no index
        component = {
            "type": "library",
            "name": name,
            "version": distribution.version,
            "purl": f"pkg:{kind}/{name}@{quote(distribution.version, safe='')}",
            "licenses": licences(distribution),
            "components": sorted(bundled(name, distribution), key=lambda each: str(each["purl"])),
        }
        yield {key: value for key, value in component.items() if value}


def licences(distribution: Distribution) -> list[Component]:
    """What a package says of itself: an SPDX expression, or a name."""
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"]}]
    return [{"license": {"name": name.splitlines()[0]}} for name in metadata.get_all("License") or [] if name]


def bundled(name: str, distribution: Distribution) -> Iterator[Component]:
    """The libraries of other origin that a wheel brings along. Raises Unrecorded where bundled.toml lacks one."""
    recorded = tomllib.loads(BUNDLED.read_text()).get(name, {}).get(distribution.version)
    if recorded is None and "Root-Is-Purelib: false" in (distribution.read_text("WHEEL") or ""):
        raise Unrecorded(
            f"{name} {distribution.version} has machine code, and images/{BUNDLED.name} does not say which libraries "
            f'are in it: add them below [{name}."{distribution.version}"], as that file says.'
        )
    said = {each["name"]: each for each in by_wheel(distribution)}
    libraries = Path(str(distribution.locate_file("."))).glob(f"{name.replace('-', '_')}_libs/*")
    # In an image, links stand for files that Debian's packages bring along, and that are in the bill with those.
    files = {path.name: path.is_symlink() for path in libraries}
    for library, facts in (recorded or {}).items():
        own = {file for file in files if any(fnmatch(file, pattern) for pattern in facts.get("files", ()))}
        linked = {file for file in own if files.pop(file)}
        if "files" in facts and not own:
            raise Unrecorded(f"{name} {distribution.version} has no {library}, and images/{BUNDLED.name} says it has.")
        if library not in said and not (own and own == linked):
            purl = f"pkg:generic/{library}@{quote(facts['version'], safe='')}"
            said[library] = {"type": "library", "name": library, "version": facts["version"], "purl": purl}
    if files:
        raise Unrecorded(
            f"{name} {distribution.version} brings along {min(files)}, and images/{BUNDLED.name} does not say which "
            f'library that is: add it below [{name}."{distribution.version}"].'
        )
    yield from said.values()


def by_wheel(distribution: Distribution) -> Iterator[Component]:
    """What a wheel's own bills of materials (PEP 770) say that it bundles."""
    name = re.sub("[-_.]+", "_", distribution.metadata["Name"]).capitalize()
    for path in Path(str(distribution.locate_file("."))).glob(f"{name}-*.dist-info/sboms/*.cdx.json"):
        document = json.loads(path.read_text())
        for component in document.get("components", []):
            if component.get("purl") != document["metadata"]["component"].get("purl"):
                yield {key: component[key] for key in ("type", "name", "version", "purl")}


def main(name: str, version: str, lock: str, *layers: str) -> None:
    """Prints it, in one line, as it is not to be long."""
    rows = (line.split() for line in Path(lock).read_text().splitlines() if not line.startswith("#"))
    hashes = {(architecture, package, locked): sha256 for _, architecture, package, locked, sha256 in rows}
    components = [each for layer in layers for each in (*debian(Path(layer), hashes), *python(Path(layer)))]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": sorted(components, key=lambda each: str(each["purl"])),
    }
    json.dump(document, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Unrecorded as error:
        sys.exit(str(error))
