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


def generate(protos: Path, openapi: Path, package: Path) -> None:
    """Writes everything that is generated below `package`, in place of what an earlier run wrote there.

    `protos` holds `souk/<service>/v<N>/<service>.proto`, one file a package; `openapi` holds `gateway.v<N>.yaml`.
    Raises `UnsupportedProto` for a construct that the generator does not know, `CalledProcessError` where protoc
    finds a mistake.
    """
    sources = sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        descriptors = Path(scratch) / "descriptors.bin"
        dataclasses = Path(scratch) / "dataclasses"
        dataclasses.mkdir()
        _protoc(protos, sources, f"--descriptor_set_out={descriptors}", "--include_source_info")
        _protoc(
            protos,
            sources,
            f"--python_betterproto2_out={dataclasses}",
            "--python_betterproto2_opt=client_generation=none,server_generation=none",
        )
        for descriptor in FileDescriptorSet.FromString(descriptors.read_bytes()).file:
            _write_package(File(descriptor), dataclasses, package)
        shutil.copyfile(dataclasses / "message_pool.py", package / "message_pool.py")
    for contract in sorted(openapi.glob("*.yaml")):
        target = package / "openapi" / f"{contract.stem}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(yaml.safe_load(contract.read_text()), indent=1) + "\n")


def _protoc(protos: Path, sources: list[str], *options: str) -> None:
    scripts = sysconfig.get_path("scripts")  # where the plugin is installed, also when that is not on PATH
    environment = {**os.environ, "PATH": os.pathsep.join([scripts, *_path_of_build(), os.environ.get("PATH", "")])}
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", *options, *sources]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def _path_of_build() -> list[str]:
    """An isolated build keeps its tools' scripts beside the packages that it put on sys.path."""
    return [str(parent / "bin") for entry in sys.path for parent in Path(entry).parents if (parent / "bin").is_dir()][
        :8
    ]


def _write_package(file: File, dataclasses: Path, package: Path) -> None:
    target = package / file.service_dir / file.major
    target.mkdir(parents=True, exist_ok=True)
    (target.parent / "__init__.py").write_text(f'"""Contracts of {file.service_dir}, one package a major version."""\n')
    messages = (dataclasses / Path(file.name).parent / "__init__.py").read_text()
    found = "from ....message_pool import"  # written for a tree that is one folder deeper
    if messages.count(found) != 1:
        raise RuntimeError(f"betterproto2's output for {file.name} no longer has one line {found!r}")
    messages = messages.replace(found, "from souk_contracts.message_pool import")
    (target / "messages.py").write_text(messages)
    (target / "codec.py").write_text(codec_module(file))
    if file.service.methods:
        (target / "rpc.py").write_text(rpc_module(file))
    else:
        (target / "rpc.py").unlink(missing_ok=True)  # of an earlier run
    init = _PACKAGE_INIT if file.service.methods else _PACKAGE_INIT_WITHOUT_CALLS
    (target / "__init__.py").write_text(
        init.format(title=file.package, source=file.name, package=file.python_package, service=file.service.python_name)
    )
