"""Runs a package's `__main__.main` as `python -m` does: `python -S run_module.py PACKAGE ARGUMENT...`.

Ctrl-C ends it with 130 and without a traceback at any moment: while it is imported, while it works, while Python ends.
`-S`, since Python would print one while it looks for installed packages; that is made up for here.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

import importlib
import site
import sys
from collections.abc import Callable

Code = int | str | None


def interruptible(main: Callable[[], Code]) -> Code:
    """Calls `main`, which may clean up when it is interrupted; gives what to exit with."""
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code
        finally:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


if __name__ == "__main__":
    site.main()
    package = sys.argv.pop(1)
    sys.argv[0] = package
    sys.exit(interruptible(importlib.import_module(f"{package}.__main__").main))
