#!/usr/bin/env bash
# Makes .venv if it is missing and runs ruff, mypy and the tests.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/common.sh
source "$ROOT/scripts/common.sh"

usage() {
  cat <<'TEXT'
usage: ./test.sh [--quick] [--coverage] [--versions V] [-- PYTEST_ARGUMENTS]
  --quick       leave out the tests marked slow: two to three minutes on two cores
  --coverage    measure line and branch coverage as well; less than 90 % fails
  --versions V  tested (constraints.txt; the default), oldest (the lower bounds of setup.py) or
                newest (whatever its ranges allow): the last two run the tests alone, each in an
                environment of its own. PYTHON=/path/to/python3 chooses the Python
  -- ...        handed on to pytest, for example: ./test.sh --quick -- -k gates
The last line is `OK in M m S s` (exit status 0) or `FAILED: ...` (another one).
TEXT
}

arguments=()
pytest=(pytest)
while [[ $# -gt 0 ]]; do
  case $1 in
    --quick) arguments+=(-m "not slow") ;;
    --coverage) pytest=(coverage run -m pytest) ;;
    --versions)
      [[ "${2:-}" =~ ^(tested|oldest|newest)$ ]] ||
        usage_error "--versions takes tested, oldest or newest, not '${2:-}'"
      use_versions "$2"
      shift
      ;;
    -h | --help) usage && exit 0 ;;
    --)
      shift
      arguments+=("$@")
      break
      ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done

ensure_environment
cd "$ROOT"
# Two processes of one thread each are faster than one of two, and never fight for a core.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE
# Other versions of the libraries carry other types, and other linters have other rules.
if [[ "$VERSIONS" == tested ]]; then
  step "ruff check" "$PY" -m ruff check --quiet .
  step "ruff format --check" "$PY" -m ruff format --check --quiet .
  step "mypy" "$PY" -m mypy dynamic_routing
fi
# Old libraries call what newer ones that they need have deprecated since, or warn of themselves.
if [[ "$VERSIONS" == oldest ]]; then
  arguments+=(
    -W ignore::DeprecationWarning -W ignore::FutureWarning
    -W "ignore:The given buffer is not writable:UserWarning"
  )
  export IGNORED_WARNINGS=DeprecationWarning,FutureWarning  # of the programs that tests start
fi
step "pytest" "$PY" -m "${pytest[@]}" -n 2 ${arguments[@]+"${arguments[@]}"}
if [[ "${pytest[0]}" == coverage ]]; then
  step "collecting coverage" "$PY" -m coverage combine --quiet
  step "coverage" "$PY" -m coverage report --skip-covered
fi
finish
