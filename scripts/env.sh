# Sourced by the other scripts, in the root of the repository: the project's own virtual environment.
# `setup run` installs what the services need, `setup dev` what development needs on top; both are instant when
# nothing has changed. PYTHON names another interpreter, SOUK_VENV another place.
VENV=${SOUK_VENV:-$PWD/.venv}
PYTHON=${PYTHON:-python3}
MEMBERS=(contracts packages/gateway packages/orders packages/reservations packages/loyalty)

setup() { # run | dev
  local locks=(packages/*/requirements.lock) wanted stamp
  [ "$1" = dev ] && locks=(requirements-dev.lock)
  wanted=$(find contracts/{proto,openapi,generator,hatch_build.py,pyproject.toml} packages/*/{pyproject.toml,*.lock} \
    requirements-dev.lock -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
  for stamp in "$VENV/souk-dev" "$VENV/souk-$1"; do
    [ "$wanted" = "$(cat "$stamp" 2>/dev/null)" ] || continue
    "$VENV/bin/python" packages/version.py --write # commits since then have made other versions
    return 0
  done
  check_python
  echo "Setting up $VENV (about a minute the first time)…" >&2
  [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
  install --require-hashes "${locks[@]/#/--requirement=}"
  install --no-deps "${MEMBERS[@]/#/--editable=}"
  printf '%s' "$wanted" >"$stamp"
}

install() {
  "$VENV/bin/python" -m pip install -qq --disable-pip-version-check "$@"
}

check_python() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "Souk needs Python 3.11 or later, and '$PYTHON' is $("$PYTHON" --version 2>&1); name another one with PYTHON=…" >&2
    exit 1
  }
  "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || {
    echo "Python's venv module is missing; on Debian and Ubuntu it comes with: apt install python3-venv" >&2
    exit 1
  }
}
