"""Runs protoc and betterproto2's plugin, and writes the package tree."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from generator.codec import codec_module
from generator.model import File
from generator.rpc import rpc_module

_PACKAGE_INIT = '''"""{title}, generated from {source}."""

from {package}.messages import *  # noqa: F403
from {package}.messages import __all__ as _messages
from {package}.rpc import {service}Servicer, {service}Stub

__all__ = (*_messages, "{service}Servicer", "{service}Stub")
'''

_PACKAGE_INIT_WITHOUT_CALLS = '''"""{title}, generated from {source}."""

from {package}.messages import *  # noqa: F403
from {package}.messages import __all__ as __all__
'''


_FORMAT = """\
line-length = 120
target-version = "py311"
lint.isort.known-first-party = ["souk_contracts"]
"""
"""Ruff's settings for generated code, as betterproto2's compiler lets ruff format what it writes. They lie in the
folder that the compiler works in, so that ruff takes no others from the folders around the sources."""


def generate(protos: Path, openapi: Path, package: Path) -> list[Path]:
    """Writes everything that is generated below `package`, in place of what an earlier run wrote there.

    The files that it returns depend on the sources and on the versions of the tools, and on nothing else.

    `protos` holds `souk/<service>/v<N>/<service>.proto`, one file a package; `openapi` holds `gateway.v<N>.yaml`.
    Raises `UnsupportedProto` for a construct that the generator does not know, `CalledProcessError` where protoc
    finds a mistake.
    """
    protos = protos.resolve()
    sources = sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "ruff.toml").write_text(_FORMAT, encoding="utf-8")
        descriptors = Path(scratch) / "descriptors.bin"
        dataclasses = Path(scratch) / "dataclasses"
        dataclasses.mkdir()
        _protoc(scratch, protos, sources, f"--descriptor_set_out={descriptors}", "--include_source_info")
        _protoc(
            scratch,
            protos,
            sources,
            f"--python_betterproto2_out={dataclasses}",
            "--python_betterproto2_opt=client_generation=none,server_generation=none",
        )
        for descriptor in FileDescriptorSet.FromString(descriptors.read_bytes()).file:
            written += _write_package(File(descriptor), dataclasses, package)
        written.append(package / "message_pool.py")
        shutil.copyfile(dataclasses / "message_pool.py", written[-1])
    for contract in sorted(openapi.glob("*.yaml")):
        target = package / "openapi" / f"{contract.stem}.json"
        target.parent.mkdir(exist_ok=True)
        written.append(
            _write(target, json.dumps(yaml.safe_load(contract.read_text(encoding="utf-8")), indent=1) + "\n")
        )
    return written


def _write(path: Path, text: str) -> Path:
    """Whatever the locale is."""
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _protoc(folder: str, protos: Path, sources: list[str], *options: str) -> None:
    """Runs it in `folder`, where its plugins look for their settings."""
    scripts = sysconfig.get_path("scripts")  # where the plugin is installed, also when that is not on PATH
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUFF_")}
    environment |= {"PATH": os.pathsep.join([scripts, *_path_of_build(), os.environ.get("PATH", "")])}
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", *options, *sources]
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def _path_of_build() -> list[str]:
    """An isolated build keeps its tools' scripts beside the packages that it put on sys.path."""
    return [str(parent / "bin") for entry in sys.path for parent in Path(entry).parents if (parent / "bin").is_dir()][
        :8
    ]


def _write_package(file: File, dataclasses: Path, package: Path) -> list[Path]:
    target = package / file.service_dir / file.major
    target.mkdir(parents=True, exist_ok=True)
    messages = (dataclasses / Path(file.name).parent / "__init__.py").read_text(encoding="utf-8")
    found = "from ....message_pool import"  # written for a tree that is one folder deeper
    if messages.count(found) != 1:
        raise RuntimeError(f"betterproto2's output for {file.name} no longer has one line {found!r}")
    modules = {
        "messages": messages.replace(found, "from souk_contracts.message_pool import"),
        "codec": codec_module(file),
    }
    if file.service.methods:
        modules["rpc"] = rpc_module(file)
    else:
        (target / "rpc.py").unlink(missing_ok=True)  # of an earlier run
    init = _PACKAGE_INIT if file.service.methods else _PACKAGE_INIT_WITHOUT_CALLS
    modules["__init__"] = init.format(
        title=file.package, source=file.name, package=file.python_package, service=file.service.python_name
    )
    title = f'"""Contracts of {file.service_dir}, one package a major version."""\n'
    return [
        _write(target.parent / "__init__.py", title),
        *(_write(target / f"{name}.py", text) for name, text in modules.items()),
    ]
