"""Sets up the project's virtual environment, unless it is as it should be: `setup_venv.py run|dev VENV MEMBER...`.

Everything that is fetched is pinned with its hash, the tools that build Souk's own packages, too. For scripts/env.sh;
the standard library only, and run with `python -IS`, which leaves out what a user has added to Python.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the rest is imported

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {
    "run": [*sorted(ROOT.glob("packages/*/requirements.lock")), ROOT / "images/wheel-tools.lock"],
    "dev": [ROOT / "requirements-dev.lock"],  # has all of the others, by scripts/lock
}
SOURCES = (
    "contracts/proto/**/*.proto", "contracts/openapi/*", "contracts/generator/*.py", "contracts/hatch_build.py",
    "contracts/pyproject.toml", "packages/*/pyproject.toml", "packages/*/requirements.lock", "images/wheel-tools.lock",
    "packages/version.py", "requirements-dev.lock", "scripts/setup_venv.py",
)  # fmt: skip
"""What has a say in what is installed and generated."""
GENERATED = ROOT / "contracts/src/souk_contracts/message_pool.py"
BASE_PYTHON = sys._base_executable  # type: ignore[attr-defined]  # noqa: SLF001 (documented nowhere, but what venv uses)
WHERE_FROM = {
    "INDEX_URL", "EXTRA_INDEX_URL", "NO_INDEX", "FIND_LINKS", "TRUSTED_HOST", "CERT", "CLIENT_CERT", "PROXY",
    "CACHE_DIR", "NO_CACHE_DIR", "TIMEOUT", "DEFAULT_TIMEOUT", "RETRIES", "CONFIG_FILE", "KEYRING_PROVIDER",
    "USE_FEATURE", "USE_DEPRECATED",
}  # fmt: skip
"""The settings of pip that users may have: those that say where packages come from, not where they go."""


FOR = {"run": "to run Souk", "dev": "to work on Souk"}
TAKES = {"run": "half a minute after the download of some 40 MB", "dev": "a minute after the download of some 150 MB"}
"""As measured on two processors; the download comes on top."""


class CannotSetUp(Exception):
    """The message says what is wrong, and what to do."""


def say(text: str) -> None:
    """A line for people."""
    print(text, file=sys.stderr, flush=True)


def wanted() -> dict[str, str]:
    """What an environment that is as it should be was set up for."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file()}):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return {"root": str(ROOT), "python": "{}.{}".format(*sys.version_info), "sources": digest.hexdigest()}


def stamp(venv: Path, kind: str) -> object:
    """What it was set up for; None where it never was, or not to the end."""
    try:
        return json.loads((venv / f"souk-{kind}").read_text())
    except (OSError, ValueError):
        return None


def is_set_up(venv: Path, kind: str) -> bool:
    """What development needs includes what the services need."""
    return GENERATED.exists() and any(stamp(venv, each) == wanted() for each in ("dev", kind))


def reason_to_begin_anew(venv: Path) -> str | None:
    """Why nothing that is in the environment can be kept."""
    found = stamp(venv, "dev") or stamp(venv, "run")
    if not isinstance(found, dict) or found.keys() != wanted().keys():
        return f"{venv} was not set up to the end."
    if found["root"] != str(ROOT):
        return f"{venv} was set up for {found['root']}, and this is {ROOT}."
    if found["python"] != wanted()["python"]:
        return f"{venv} was set up for Python {found['python']}, and this is Python {wanted()['python']}."
    return None


def check_places(venv: Path) -> None:
    """Raises CannotSetUp where it could only fail later."""
    for path in (ROOT, venv):
        if odd := set('"$`\\:\n') & set(str(path)):
            raise CannotSetUp(
                f"Tools cannot be started from a folder with {' or '.join(sorted(odd))} in its name: move {path} to "
                f"another one{', or name another one with SOUK_VENV' if path == venv else ''}."
            )
    if not os.access(GENERATED.parent, os.W_OK):
        raise CannotSetUp(f"{ROOT} is read-only, and setting up generates code in it: copy it to where you can write.")
    is_other = venv.exists() and not (venv / "pyvenv.cfg").exists() and venv != ROOT / ".venv"
    if is_other and (not venv.is_dir() or any(venv.iterdir())):
        raise CannotSetUp(f"SOUK_VENV is {venv}, which is no virtual environment: name a folder that does not exist.")
    if find_spec("venv") is None or find_spec("ensurepip") is None:
        raise CannotSetUp(
            f"{BASE_PYTHON} lacks the modules that make virtual environments; on Debian and Ubuntu they come with: "
            "apt install python3-venv"
        )


@contextmanager
def alone(venv: Path) -> Iterator[int]:
    """Waits until nobody else sets up an environment in this place; gives what a child holds to be waited for, too."""
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(venv.parent, os.O_RDONLY)
    except OSError as error:
        raise CannotSetUp(f"{venv} cannot be made ({error.strerror}): name another place with SOUK_VENV.") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"Another process sets up an environment in {venv.parent}; waiting for it…")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def run(command: Sequence[str | Path], lock: int) -> None:
    """Raises CannotSetUp. What it starts ends with it, and hears nothing of Ctrl-C before."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") or name.removeprefix("PIP_") in WHERE_FROM
    }
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = environment["PIP_NO_INPUT"] = "1"
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, pass_fds=[lock], process_group=0
    )
    try:
        code = child.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    if code:
        raise CannotSetUp("That failed; the lines above say why. When it is mended, run this again.")


def set_up(kind: str, venv: Path, members: Sequence[str], lock: int) -> None:
    """Makes the environment, or brings it up to date. Raises CannotSetUp."""
    check_places(venv)
    reason = reason_to_begin_anew(venv)
    python = venv / "bin/python"
    packages = {name for path in LOCKS[kind] for name in re.findall(r"^([\w.-]+)==", path.read_text(), re.MULTILINE)}
    members_of = [f"--editable={ROOT / member}" for member in members]
    pip = (python, "-m", "pip", "install", "-qq", "--no-warn-script-location", "--root-user-action=ignore")
    steps: list[tuple[str, list[str | Path]]] = [
        (
            f"{len(packages)} packages, pinned by hash; {TAKES[kind]}",
            [*pip, "--require-hashes", *(f"--requirement={path}" for path in LOCKS[kind])],
        ),
        (
            f"Souk's own {len(members)}, with their generated code; some 10 s",
            [*pip, "--no-deps", "--no-build-isolation", "--check-build-dependencies", *members_of],
        ),
    ]
    if reason:
        if (venv / "pyvenv.cfg").exists():
            say(f"{reason} Setting it up anew.")
        steps.insert(
            0,
            (
                f"a virtual environment with Python {sys.version.split()[0]}; some 5 s",
                [BASE_PYTHON, "-m", "venv", "--clear", venv],
            ),
        )
    say(f"Setting up {venv} {FOR[kind]}:")
    for each in ("run", "dev"):  # what is interrupted from here on is begun anew
        (venv / f"souk-{each}").unlink(missing_ok=True)
    for number, (what, command) in enumerate(steps, start=1):
        say(f"  {number} of {len(steps)}: {what}…")
        run(command, lock)
    (venv / f"souk-{kind}").write_text(json.dumps(wanted()))


def end(number: int, _: object) -> None:
    """On a signal."""
    sys.exit(128 + number)


def main(kind: str, place: str, *members: str) -> None:
    """Exit codes: 0 it is set up, 1 it cannot be, 130 when interrupted."""
    venv = Path(place)
    if not is_set_up(venv, kind):
        set_up_alone(kind, venv, members)
    write_versions()


def write_versions() -> None:
    """Commits since the last time have made other versions, although nothing has to be installed anew."""
    sys.path.append(str(ROOT / "packages"))
    import version

    version.try_to_write()


def set_up_alone(kind: str, venv: Path, members: Sequence[str]) -> None:
    """Sets it up, unless another process does so at this time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    try:
        with alone(venv) as lock:
            if not is_set_up(venv, kind):  # meanwhile, by another process
                began = time.monotonic()
                set_up(kind, venv, members, lock)
                say(f"  done, in {time.monotonic() - began:.0f} s")
    except CannotSetUp as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
