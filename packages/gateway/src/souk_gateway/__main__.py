"""`python -m souk_gateway serve` runs the gateway; the exit code of `health` says whether one answers."""

from souk_contracts.stopping import stop_at_once

if __name__ == "__main__":
    stop_at_once()  # before all that takes time to load

import gc
import logging
import os
import sys

from souk_gateway import __version__
from souk_gateway.settings import BadSetting, Settings, names

USAGE = """usage: python -m souk_gateway COMMAND

  serve      serve the REST API until SIGTERM
  health     exit with 0 if the gateway at SOUK_GATEWAY_ADDRESS answers, else with 1
  --version  print the version

Settings come from environment variables; the package's README lists them."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (no socket is bound here)


def main(arguments: list[str]) -> int:
    """Exit code: 0 all is well, 1 it failed, 2 the command or a setting is wrong."""
    if arguments == ["--version"]:
        print(__version__)
        return 0
    commands = {"serve": serve, "health": health}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        settings = Settings.from_environment(os.environ)
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 2
    return commands[arguments[0]](settings)


def serve(settings: Settings) -> int:
    gc.disable()  # all that is loaded now stays: to look through it again and again took up to a tenth of the start
    # Not above: a health check every few seconds should not load all of it.
    from souk_contracts.polling import prefer_pollers

    prefer_pollers()  # before anything loads gRPC
    import uvloop

    from souk_contracts.settings import without_effect
    from souk_gateway.app import CannotListen, run
    from souk_gateway.logs import configure

    configure(settings.log_level)
    for sentence in without_effect(os.environ, "gateway", names()):
        logging.getLogger(__package__).warning("%s", sentence)
    gc.freeze()  # nor is it looked through later
    gc.set_threshold(50_000)
    gc.enable()
    try:
        uvloop.run(run(settings))
    except CannotListen as error:
        print(error, file=sys.stderr)
        return 1
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def health(settings: Settings) -> int:
    import http.client  # not above: serving needs none of it

    connection = http.client.HTTPConnection(_WILDCARDS.get(settings.host, settings.host), settings.port, timeout=3)
    try:
        connection.request("GET", "/health/live")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        print(f"the gateway at {settings.host}:{settings.port} does not answer: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
