"""Measures Souk beside the bare stack, which stores nothing: orders a second, latencies, processor time, memory.

Everything is started from built wheels, as processes of its own, and driven by wrk; all that is compared takes turns.
At the end the databases are audited: figures of orders that do not audit clean are not printed.

    ./scripts/bench                          all of it, about 10 minutes
    ./scripts/bench --only throughput --stacks bare sqlite --connections 64
    ./scripts/bench --write                  and write docs/benchmarks.md and docs/benchmarks.json
    ./scripts/bench overload                 under more load than it can carry; overload --help says more
    ./scripts/bench attacks                  beside clients that attack; attacks --help says more
    ./scripts/bench compare REVISION         beside another revision of itself; compare --help says more

Exit codes: 0 measured, 1 it could not be, 2 bad usage. docs/benchmarks.md says more.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from releasing.build import CACHE, CannotBuild, git
from releasing.ledger import ROOT
from skewing.installed import of_tree
from skewing.processes import Failed

from benching import attacks, compare, measures, overload, starts
from benching.document import MARK, machine, write
from benching.load import NoLoad, number
from benching.report import Figures, as_json, as_text
from benching.stacks import BACKENDS, Bare, Souk, Stack
from conftest import PostgreSQL

WHAT = ("throughput", "memory", "growth", "start")
STACKS = ("bare", "sqlite", "postgresql")
DATA = ROOT / "docs/benchmarks.json"


def say(text: str) -> None:
    """For people, beside what is for machines."""
    print(text, file=sys.stderr, flush=True)


def say_progress(text: str) -> None:
    """Of what has not been audited yet."""
    say(f"so far, before the audit: {text}")


def started(names: Sequence[str], folder: Path, undo: ExitStack) -> Sequence[Stack]:
    """The stacks, running and filled. Raises Failed, CannotBuild."""
    tree = of_tree()
    stacks: list[Stack] = []
    for name in names:
        say(f"starting {name}")
        if name == "bare":
            stack: Stack = Bare(tree)
        else:
            data = folder / name
            data.mkdir()
            if name == "postgresql":
                server = PostgreSQL(durable=True)
                undo.callback(server.destroy)
                server.start()
                urls = {each: server.url(server.new_database()) for each in BACKENDS}
                souk = Souk(name, tree, data, urls, {"postgresql": server.pid()})
            else:
                souk = Souk(name, tree, data)
            stack = souk
            undo.callback(stack.stop)
            souk.fill()
        undo.callback(stack.stop)
        stacks.append(stack)
    return stacks


def run(options: argparse.Namespace) -> Figures:
    """All measurements that are asked for. Raises Failed, CannotBuild, NoLoad."""
    throughput, memory, start, up_ms, containers = [], [], {}, None, {}
    growth: Sequence[measures.Growth] = []
    CACHE.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix="bench-", dir=CACHE) as into,
        ExitStack() as undo,
    ):  # on a disk, which has to be waited for
        folder = Path(into)
        names = options.stacks if "throughput" in options.only else ["sqlite"]
        if set(options.only) - {"growth"}:
            stacks = started(names, folder, undo)
            if "throughput" in options.only:
                throughput = list(
                    measures.throughput(stacks, options.connections, options.seconds, options.rounds, say_progress)
                )
            for stack in stacks:
                if isinstance(stack, Souk) and stack.name == "sqlite":
                    if "memory" in options.only:
                        memory = list(measures.memory(stack, options.orders, say_progress))
                    if "start" in options.only:
                        start = dict(starts.processes(stack, options.starts, say))
            for stack in stacks:
                stack.audit()
                stack.stop()
        if "start" in options.only:  # nothing else runs any more
            up_ms = starts.up(folder / "up", options.starts, say)
            containers = dict(starts.containers(options.starts, say))
        if "growth" in options.only:
            stored = (measures.FEW, options.many)
            growth = measures.growth(of_tree(), folder, stored, options.seconds, options.rounds, say)
    revision = git("describe", "--always", "--dirty").strip()
    return Figures(machine(), revision, throughput, memory, growth, start, up_ms, containers)


def main() -> int:
    """Gives the exit code."""
    modes = {"attacks": attacks, "overload": overload, "compare": compare}
    mode = modes.get(sys.argv[1]) if len(sys.argv) > 1 else None
    try:
        if mode is None:
            return standard()
        found = mode.main(sys.argv[2:], say)
        if "--write" in sys.argv:
            write(mode.MARK, found.text())
    except (CannotBuild, Failed, NoLoad) as error:
        say(str(error))
        return 1
    print(found.text())
    return 0


def standard() -> int:
    """Gives the exit code. Raises Failed, CannotBuild, NoLoad."""
    parser = argparse.ArgumentParser("bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WHAT, default=WHAT, help="what to measure (all)")
    parser.add_argument("--stacks", nargs="+", choices=STACKS, default=STACKS, help="which stacks take turns (all)")
    parser.add_argument(
        "--connections",
        nargs="+",
        type=number,
        default=(1, 16, 64, 256),
        metavar="N",
        help="connections of wrk (1 16 64 256)",
    )
    parser.add_argument("--seconds", type=number, default=8, metavar="S", help="length of a turn (%(default)s)")
    parser.add_argument("--rounds", type=number, default=3, metavar="N", help="turns of each stack (%(default)s)")
    parser.add_argument(
        "--orders", type=number, default=100_000, metavar="N", help="compare memory after so many orders (%(default)s)"
    )
    parser.add_argument(
        "--many",
        type=number,
        default=measures.MANY,
        metavar="N",
        help="measure up to so many stored orders (%(default)s)",
    )
    parser.add_argument("--starts", type=number, default=7, metavar="N", help="starts of each service (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as JSON")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and docs/benchmarks.json")
    options = parser.parse_args()
    figures = run(options)
    print(as_text(figures))
    for file in [*([options.json] if options.json else []), *([DATA] if options.write else [])]:
        file.write_text(as_json(figures))
    if options.write:
        write(MARK, as_text(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
