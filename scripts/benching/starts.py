"""How long starts take: of a service's process, of all of Souk by `scripts/up`, and of a service's container."""

import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from imaging import bake
from imaging.origin import Image, from_tree
from releasing.build import CannotBuild
from releasing.ledger import ROOT, Ledger
from skewing.processes import Failed, Process, free_addresses

from benching.stacks import BACKENDS, Souk
from souk_contracts.probe import is_serving
from tests.deployments import free_port

_PATIENCE_S = 60
_POLL_S = 0.005
"""Who asks without a pause takes a processor from what starts."""
_READY, _LOADED = "Souk answers at", "/docs"
"""What `scripts/up` prints: once all services answer, and once the demo's catalogue is there, too."""
_AS_COMPOSE_HAS_IT = (
    "--read-only",
    "--tmpfs=/tmp:mode=1777,size=16m",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges:true",
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class ContainerStart:
    """Milliseconds until a container's service is SERVING: medians of the rounds."""

    run_ms: float
    """From `docker run`."""
    process_ms: float
    """From the start of its process, as the engine notes it: the engine's own part is what is left."""


def processes(souk: Souk, rounds: int, say: Say) -> Mapping[str, float]:
    """Milliseconds from exec to SERVING of each service, its database migrated: medians. Raises Failed."""
    found = {}
    for service in BACKENDS:
        process = souk.process(service)
        found[service] = statistics.median(_process_ms(process) for _ in range(rounds))
        say(f"{service}: {found[service]:.0f} ms from exec to SERVING")
    return found


def _process_ms(process: Process) -> float:
    process.kill()
    started = time.monotonic()
    process.spawn()
    return _serving_ms(process.address, started, str(process.what), process.wrote)


def _serving_ms(address: str, started: float, what: str, wrote: Callable[[], str]) -> float:
    """Milliseconds from `started` until a server answers that it is SERVING. Raises Failed."""
    while not is_serving(address):
        if time.monotonic() > started + _PATIENCE_S:
            raise Failed(f"{what} does not answer within {_PATIENCE_S} s:\n{wrote()}")
        time.sleep(_POLL_S)
    return (time.monotonic() - started) * 1000


def up(folder: Path, rounds: int, say: Say) -> float:
    """Milliseconds from `scripts/up` until it says that Souk answers: the median. Raises Failed.

    `folder` is where the databases are; a start before those that count makes and migrates them, and loads the demo.
    """
    _up_ms(folder)
    found = statistics.median(_up_ms(folder) for _ in range(rounds))
    say(f"scripts/up: {found:.0f} ms from warm to ready")
    return found


def _up_ms(folder: Path) -> float:
    # Nothing of the environment's settings; where the virtual environment is remains to be known.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SOUK_", "PYTHON"))}
    place = {name: value for name, value in os.environ.items() if name == "SOUK_VENV"}
    environment = {**kept, **place, "SOUK_PORT": str(free_port()), "SOUK_DATA": str(folder)}
    started = time.monotonic()
    process = subprocess.Popen(
        [ROOT / "scripts/up"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    late = threading.Timer(_PATIENCE_S, process.kill)  # its services end with it, and so does what it prints
    late.start()
    printed, ready_ms = "", None
    try:
        for line in process.stdout:
            printed += line
            if _READY in line:
                ready_ms = (time.monotonic() - started) * 1000
            if _LOADED in line:
                break
        process.send_signal(signal.SIGINT)  # as Ctrl-C does
        printed += process.stdout.read()
        process.wait()
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    if ready_ms is None or process.returncode:
        raise Failed(f"scripts/up did not start and stop as it should within {_PATIENCE_S} s:\n{printed}")
    return ready_ms


def containers(rounds: int, say: Say) -> Mapping[str, ContainerStart]:
    """Of each service, its database migrated, in a volume. Raises Failed.

    Nothing, and a line that says so, where no engine answers, or where the images cannot be built.
    """
    try:
        images = _images()
    except CannotBuild as error:
        say(f"starts of containers are not measured: {error}")
        return {}
    found = {}
    for image in images:
        starts = _container_starts(image, rounds)
        middle = ContainerStart(
            statistics.median(each.run_ms for each in starts), statistics.median(each.process_ms for each in starts)
        )
        found[image.service] = middle
        say(f"{image.name}: {middle.run_ms:.0f} ms from docker run to SERVING, {middle.process_ms:.0f} as a process")
    return found


def _images() -> Sequence[Image]:
    """Those of the services, as they are in the tree. Raises CannotBuild."""
    for command in (["docker", "info"], ["docker", "buildx", "version"]):
        if shutil.which("docker") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            raise CannotBuild("no container engine with buildx answers.")
    images = [from_tree(service) for service in BACKENDS]
    try:
        bake.build(images, Ledger(), bake.Options(quiet=True))
    except subprocess.CalledProcessError:
        raise CannotBuild("their images cannot be built; ./scripts/images build says why.") from None
    return images


def _container_starts(image: Image, rounds: int) -> Sequence[ContainerStart]:
    volume = f"souk-bench-{uuid4().hex[:12]}"
    _docker("volume", "create", volume)
    try:
        _docker("run", "--rm", f"--volume={volume}:/data", image.name, "migrate")
        return [_container_start(image, volume) for _ in range(rounds)]
    finally:
        _docker("volume", "rm", volume)


def _container_start(image: Image, volume: str) -> ContainerStart:
    name = f"souk-bench-{uuid4().hex[:12]}"
    (address,) = free_addresses(1)
    place = (f"--name={name}", f"--publish={address}:50051", f"--volume={volume}:/data")
    try:
        started = time.monotonic()
        _docker("run", "--detach", *place, *_AS_COMPOSE_HAS_IT, image.name)
        run_ms = _serving_ms(address, started, image.name, lambda: _docker("logs", name))
        serving_at = time.time()
        process_at = datetime.fromisoformat(_docker("inspect", "--format={{.State.StartedAt}}", name).strip())
        return ContainerStart(run_ms, (serving_at - process_at.timestamp()) * 1000)
    finally:
        _docker("rm", "--force", "--volumes", name)


def _docker(*arguments: str) -> str:
    """What a command of the engine prints. Raises Failed."""
    done = subprocess.run(
        ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise Failed(f"'docker {' '.join(arguments[:2])} …' failed:\n{done.stdout}")
    return done.stdout
