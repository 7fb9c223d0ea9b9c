# Sourced by the other scripts, in the root of the repository: the project's own virtual environment.
# `setup run` installs what the services need, `setup dev` what development needs on top; both are instant when nothing
# has changed. PYTHON names the interpreter of a new environment, SOUK_VENV its place; a relative one is below the root.

# What the caller has set for another Python, or for another repository, must not decide what runs here.
unset PYTHONHOME PYTHONPATH PYTHONPLATLIBDIR PYTHONOPTIMIZE PYTHONINSPECT PYTHONSAFEPATH PYTHONWARNINGS VIRTUAL_ENV
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_COMMON_DIR GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES
unset SOUK_VERSION # of one package that somebody builds, and here are five

VENV=${SOUK_VENV:-.venv}
[[ $VENV == /* ]] || VENV=$PWD/$VENV
export SOUK_VENV=$VENV
PYTHON=${PYTHON:-python3}
MEMBERS=(contracts packages/gateway packages/orders packages/reservations packages/loyalty)

setup() { # run | dev
  local python=$VENV/bin/python
  if ! is_new_enough "$python"; then
    check_python
    python=$PYTHON
  fi
  "$python" -IS scripts/setup_venv.py "$1" "$VENV" "${MEMBERS[@]}" || exit
}

is_new_enough() {
  "$1" -IS -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

check_python() {
  local is
  is_new_enough "$PYTHON" && return
  if ! command -v "$PYTHON" >/dev/null; then
    is="there is no '$PYTHON' here"
  else
    is="'$PYTHON' is $("$PYTHON" --version 2>&1 || echo "not a Python that works")"
  fi
  echo "Souk needs Python 3.11 or later, and $is. Install one (Debian and Ubuntu: apt install python3-venv)," \
    "or name one with PYTHON=/path/to/python3." >&2
  exit 1
}

help() { # the script's arguments; where they ask for help, prints the comment at the script's head
  case ${1-} in
    -h | --help)
      sed -n '2,/^[^#]/s/^# \{0,1\}//p' "scripts/${0##*/}"
      exit
      ;;
  esac
}

no_arguments() { # the script's arguments
  help "$@"
  [ $# = 0 ] || {
    echo "${0##*/} takes no arguments, and got '$1'; --help says more" >&2
    exit 2
  }
}
