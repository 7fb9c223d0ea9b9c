"""Which versions of the services a compose file runs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from releasing import version
from releasing.ledger import SERVICES, numbers

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<plain>\w+)|\{(?P<name>\w+)(?:(?P<how>:?[-?+])(?P<word>[^}]*))?\})")
_IMAGE = re.compile(rf"(?:.*/)?souk/(?P<service>{'|'.join(SERVICES)})(?::(?P<version>[^@]+))?(?:@.*)?")


TREE = "tree"
"""The tag of an image that was built from the working tree."""


class Unreadable(Exception):
    """A compose file cannot be judged; the text is a sentence that says why."""


def versions(
    path: Path, environment: Mapping[str, str], released: Mapping[str, Sequence[str]], tree: Mapping[str, str]
) -> dict[str, set[str]]:
    """The versions of each service, with the environment's values for variables. Raises Unreadable.

    An image may be named by a part of its version, such as souk/orders:1: that is the newest of those `released`; or
    as souk/orders:tree: that is the one of the `tree`.
    """
    try:
        services: dict[str, Any] = yaml.safe_load(path.read_text())["services"]
        images = [str(each["image"]) for each in services.values() if "image" in each]
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path} cannot be read: {error}.") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{path} is not a compose file: {' '.join(str(error).split())[:300]}.") from error
    found: dict[str, set[str]] = {}
    for image in images:
        if match := _IMAGE.fullmatch(interpolated(image, environment)):
            service, tag = match["service"], match["version"] or "latest"
            named = [each for each in released[service] if each.startswith(f"{tag}.")]
            runs = max(named, key=numbers) if named else tree[service] if tag == TREE else version.from_tag(tag)
            try:
                version.order(runs)
            except ValueError:
                raise Unreadable(
                    f"{path}: the tag of the image {match[0]} is not a version of {service}, so it cannot be judged; "
                    f"use one of {', '.join((*released[service], TREE))}."
                ) from None
            found.setdefault(service, set()).add(runs)
    if not found:
        raise Unreadable(f"{path} has no image of a Souk service, such as souk/orders:1.0.0.")
    return found


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """The text with its variables resolved as Compose does: $A, ${A}, ${A:-default}, ${A-default} and so on."""

    def value(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name, how, word = match["plain"] or match["name"], match["how"] or "-", match["word"] or ""
        counts = bool(environment.get(name)) if how.startswith(":") else name in environment
        if how.endswith("?") and not counts:
            raise Unreadable(f"{name} is not set: {word}")
        if how.endswith("+"):
            return word if counts else ""
        return environment[name] if counts else word

    return _VARIABLE.sub(value, text)
