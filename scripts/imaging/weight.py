"""What images weigh, and whether that is within their limits."""

import gzip
import io
import json
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass

LAYERS = ("runtime", "dependencies", "contracts", "app")
MEGABYTE = 1_000_000

GZIPPED_LIMIT = 28 * MEGABYTE
UNPACKED_LIMIT = 75 * MEGABYTE
APP_LIMIT = 128 * 1024
"""What a release that changes nothing but a service's code adds to a registry, at most."""


@dataclass(frozen=True)
class Layer:
    """What a layer weighs, in bytes."""

    gzipped: int
    unpacked: int


def weigh(images: list[str]) -> dict[str, list[Layer]]:
    """Each image's layers, from the lowest."""
    with tempfile.TemporaryFile() as file:
        subprocess.run(["docker", "save", *images], check=True, stdout=file)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:

            def read(path: str) -> bytes:
                content = archive.extractfile(path)
                assert content is not None, f"{path} is a file in what docker save writes"
                return content.read()

            manifest = json.loads(read("manifest.json"))
            layers = {path: weigh_layer(read(path)) for path in {p for image in manifest for p in image["Layers"]}}
    return {tag: [layers[path] for path in image["Layers"]] for image in manifest for tag in image["RepoTags"]}


def weigh_layer(content: bytes) -> Layer:
    """A layer's weight in a registry, and that of its files on a disk."""
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        return Layer(len(gzip.compress(content, 6, mtime=0)), sum(file.size for file in files))


def report(weights: dict[str, list[Layer]]) -> list[str]:
    """Prints the table of sizes, and gives the images that are over their limits. The single image has none."""
    names = max(map(len, weights), default=0) + 2
    columns = f"{{:<{names}}}{{:>9}}{{:>14}}{{:>11}}{{:>10}}{{:>11}}{{:>11}}"
    print(f"{'':<{names}}{'layers, gzipped':^44}{'image':>22}")
    print(columns.format("", *LAYERS, "gzipped", "unpacked"))
    over = []
    for tag, layers in sorted(weights.items()):
        gzipped, unpacked = sum(layer.gzipped for layer in layers), sum(layer.unpacked for layer in layers)
        cells = [layer.gzipped for layer in layers] if len(layers) == len(LAYERS) else [None] * len(LAYERS)
        print(columns.format(tag, *(size(cell) for cell in (*cells, gzipped, unpacked))))
        heavy = gzipped > GZIPPED_LIMIT or unpacked > UNPACKED_LIMIT or layers[-1].gzipped > APP_LIMIT
        if heavy and len(layers) == len(LAYERS):
            over.append(tag)
    print(columns.format("at most", "", "", "", *(size(limit) for limit in (APP_LIMIT, GZIPPED_LIMIT, UNPACKED_LIMIT))))
    return over


def size(number: int | None) -> str:
    """Bytes for people: MB are millions, KiB are 1024."""
    if number is None:
        return ""
    return f"{number / 1024:.1f} KiB" if number < 1024 * 1024 else f"{number / MEGABYTE:.1f} MB"
