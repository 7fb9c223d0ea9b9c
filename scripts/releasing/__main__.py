"""Releases a package: its version, its changelog, its tag and its entry in the ledger, and nothing of any other.

    ./scripts/release orders minor        patch, minor, major, or a version such as 1.0.0
    ./scripts/release verify              builds every release again, and compares

docs/releasing.md says what a release is, and what is done with it.
"""

import argparse
import datetime
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from skewing.report import NoRow, row

from releasing import literals, version
from releasing.build import CannotBuild, build, checkout, git, sha256, time_of
from releasing.ledger import PACKAGES, ROOT, Ledger, NotReleased, Release, folder, numbers

FRAGMENT = re.compile(r"\+[^.]+\.(added|changed|fixed|removed)\.md")


class Refused(Exception):
    """Nothing was released; the text says why, and what to do."""


def lock(package: str) -> str:
    """The file that pins what a service is deployed with."""
    return f"{folder(package)}/requirements.lock"


def next_version(package: str, wanted: str, latest: Release | None) -> str:
    """`wanted` is a part of the version, or a version. Raises Refused."""
    if wanted in ("major", "minor", "patch"):
        if latest is None:
            raise Refused(f"{package} has no release yet; give its first version: ./scripts/release {package} 1.0.0")
        major, minor, patch = numbers(latest.version)
        steps = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}
        return ".".join(map(str, steps[wanted]))
    try:
        new = numbers(wanted)
    except ValueError as error:
        raise Refused(f"{error}; give one, or patch, minor or major.") from None
    if latest is not None and new <= numbers(latest.version):
        raise Refused(f"{package} {wanted} is not above {latest.version}, its latest release; give a higher version.")
    return wanted


def _version_now(package: str, latest: Release | None) -> str:
    """What the tree's version begins with. Raises Refused in a release's commit, whose ledger lacks that release."""
    now = version.literal(package)
    if latest is not None and not version.is_development(now):
        raise Refused(
            f"{literals.file(package).relative_to(ROOT)} says {now}, which is a release, and its entry in the ledger "
            "is in the commit after it; start from that one."
        )
    return now


def contracts_for(package: str, ledger: Ledger) -> str:
    """The released contracts that a service is deployed with.

    Raises Refused where the tree's are not released, or the service needs others.
    """
    if package == "contracts":
        return ""
    latest = ledger.latest("contracts")
    if latest is None:
        raise Refused("The contracts have no release yet; release them first: ./scripts/release contracts 1.0.0")
    changed = git("diff-tree", "-r", "--name-only", latest.commit, "HEAD", "--", *version.contents("contracts"))
    for path in changed.splitlines():
        if not literals.is_all_that_differs(path, latest.commit):
            raise Refused(f"The contracts have changed since {latest.version} ({path}); release them first.")
    needed = literals.contracts_of(package)
    if not needed.contains(latest.version, prereleases=True):
        raise Refused(
            f"{package} needs souk-contracts {needed}, and the latest release of the contracts is {latest.version}; "
            f"release them first, or correct {literals.file(package).relative_to(ROOT)}."
        )
    return latest.version


def release(package: str, wanted: str, checks: str, skew: Path | None, dry_run: bool) -> None:
    """Raises Refused before anything is changed; CannotBuild when all is as it was before.

    `skew` is what a run of scripts/skew on this tree wrote; without it there is one.
    """
    ledger = Ledger()
    latest = ledger.latest(package)
    new = next_version(package, wanted, latest)
    contracts = contracts_for(package, ledger)
    fragments = sorted(path.name for path in (ROOT / folder(package) / "changelog.d").glob("*.md"))
    if wrong := [name for name in fragments if not FRAGMENT.fullmatch(name)]:
        raise Refused(
            f"{folder(package)}/changelog.d/{wrong[0]} must be named +<name>.<added|changed|fixed|removed>.md."
        )
    if not fragments:
        raise Refused(f"Nothing to release: {folder(package)}/changelog.d has no fragment that describes a change.")
    if git("status", "--porcelain", "--untracked-files=all"):
        raise Refused("Some changes are not committed; commit them, or put them away with git stash.")
    tag = f"{package}-v{new}"
    if git("tag", "--list", tag):
        raise Refused(f"The tag {tag} already exists; choose another version, or delete the tag.")
    old = _version_now(package, latest)
    following = max(old, literals.following(new), key=version.order)  # what comes next may be a major version
    meets = package != "contracts" and latest is not None
    for step in (
        f"run {checks}" + (" and ./scripts/skew" if meets and skew is None else ""),
        f"write {folder(package)}/CHANGELOG.md from {', '.join(fragments)}",
        f"change the version in {literals.file(package).relative_to(ROOT)} from {old} to {new}",
        f"commit, and tag {tag}",
        "build the wheel and the sdist from that commit" + (f", for contracts {contracts}" if contracts else ""),
        f"add the entry to releases.toml, set the version to {following}, and commit",
    ):
        print(f"{'would ' if dry_run else ''}{step}")
    if dry_run:
        return
    before = git("rev-parse", "HEAD")
    if subprocess.run(shlex.split(checks), cwd=ROOT, check=False).returncode:
        raise Refused(f"'{checks}' failed; correct what it reports, then release again.")
    runs_beside = _runs_beside(package, skew) if meets else ""
    if git("rev-parse", "HEAD") != before or git("status", "--porcelain", "--untracked-files=all"):
        raise Refused(f"The tree has changed while '{checks}' ran, so it is not what was checked; release again.")
    try:
        _write_changelog(package, new, runs_beside)
        literals.set_version(package, new)
        literals.close_floor(package)
        git("add", "--all", folder(package))
        git("commit", "--quiet", f"--message=Release {package} {new}")
        commit = git("rev-parse", "HEAD")
        with checkout(commit) as tree:
            made = build(tree, package, time_of(commit), tree / "out")
            hashes = sha256(made.wheel), sha256(made.sdist)
            deployed = sha256(tree / lock(package)) if contracts else ""
        ledger.add(Release(package, new, commit, *hashes, deployed, contracts))
        literals.set_version(package, following)
        git("add", ledger.path.name, str(literals.file(package)))
        git("commit", "--quiet", f"--message=Ledger: {package} {new}")
        git("tag", "--annotate", f"--message={package} {new}", tag, commit)
    except BaseException:
        git("reset", "--quiet", "--hard", before)
        raise
    print(f"Released {package} {new}: push the branch and the tag {tag}.")


def _runs_beside(package: str, skew: Path | None) -> str:
    """The service's row of the matrix. Raises Refused."""
    with tempfile.TemporaryDirectory() as folder:
        if skew is None:
            skew = Path(folder) / "skew.json"
            if subprocess.run(["./scripts/skew", f"--json={skew}"], cwd=ROOT, check=False).returncode:
                raise Refused("'./scripts/skew' failed: old and new versions do not run beside each other.")
        try:
            return row(package, skew)
        except NoRow as error:
            raise Refused(str(error)) from error


def _write_changelog(package: str, new: str, runs_beside: str) -> None:
    today = datetime.datetime.now(datetime.UTC).date()
    command = [sys.executable, "-m", "towncrier", "build", "--yes", f"--config={ROOT}/towncrier.toml"]
    options = [f"--dir={ROOT / folder(package)}", f"--name=souk-{package}", f"--version={new}", f"--date={today}"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuild(f"towncrier cannot write the changelog:\n{done.stdout}{done.stderr}")
    if runs_beside:
        changelog = ROOT / folder(package) / "CHANGELOG.md"
        heading = f"## {new} ({today})\n"
        changelog.write_text(changelog.read_text().replace(heading, f"{heading}\n{runs_beside}\n"))


def verify() -> int:
    """Builds every release again, as somebody else would; gives how many are not what the ledger says."""
    ledger, wrong = Ledger(), 0
    # Neither the umask nor the order of hashes nor the time zone of whoever builds may matter.
    os.umask(0o077)
    os.environ |= {"PYTHONHASHSEED": str(len(ledger.releases)), "TZ": "Asia/Kathmandu"}
    for each in ledger.releases:
        said = "; ".join(_differences(each, ledger))
        wrong += bool(said)
        print(f"{each!s:<24}{each.commit[:12]}  {said or 'the same bytes'}", flush=True)
    print(f"{len(ledger.releases)} releases in {ledger.path.name}, {wrong} of them differ from it")
    return wrong


def _differences(each: Release, ledger: Ledger) -> list[str]:
    """What of a release is not as the ledger says."""
    found = []
    if git("tag", "--list", each.tag) and git("rev-parse", f"{each.tag}^{{commit}}") != each.commit:
        found.append(f"the tag {each.tag} names another commit")
    try:
        with checkout(each.commit) as tree, tempfile.TemporaryDirectory() as out:
            made = build(tree, each.package, time_of(each.commit), Path(out))
            hashes = [("wheel", each.wheel, made.wheel), ("sdist", each.sdist, made.sdist)]
            if each.package != "contracts":
                hashes.append(("lock", each.lock, tree / lock(each.package)))
                ledger.find("contracts", each.contracts)
            found += [f"the {what} differs: {sha256(path)}" for what, said, path in hashes if sha256(path) != said]
    except (CannotBuild, NotReleased) as error:
        found.append(str(error))
    return found


def _end(number: int, _: object) -> None:
    """On a signal; what was begun is undone on the way."""
    sys.exit(128 + number)


def main() -> int:
    """Gives the exit code: 0 done, 1 not, 2 bad usage."""
    parser = argparse.ArgumentParser(
        "release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*PACKAGES, "verify"]
    parser.add_argument(
        "package", choices=names, metavar="package", help=f"{', '.join(PACKAGES)}; or verify, to rebuild all"
    )
    parser.add_argument("version", nargs="?", help="patch, minor, major, or a version such as 1.2.0")
    parser.add_argument("--dry-run", action="store_true", help="print the steps, and change nothing")
    parser.add_argument(
        "--checks", default="./scripts/check", metavar="COMMAND", help="must succeed first (%(default)s)"
    )
    parser.add_argument("--skew", type=Path, metavar="FILE", help="what ./scripts/skew --json wrote for this tree")
    options = parser.parse_args()
    if options.package == "verify" and options.version:
        parser.error("verify takes no version: it builds every release")
    if options.package != "verify" and not options.version:
        parser.error("give a version: patch, minor, major, or one such as 1.2.0")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        if options.package == "verify":
            return 1 if verify() else 0
        release(options.package, options.version, options.checks, options.skew, options.dry_run)
    except (Refused, CannotBuild) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
