#!/usr/bin/env bash
# Makes .venv if it is missing and runs ruff, mypy and the tests.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/common.sh
source "$ROOT/scripts/common.sh"

usage() {
  cat <<'TEXT'
usage: ./test.sh [--quick] [-- PYTEST_ARGUMENTS]
  --quick   leave out the tests marked slow: two to three minutes on two cores
  -- ...    handed on to pytest, for example: ./test.sh --quick -- -k gates
The last line is `OK in M m S s` (exit status 0) or `FAILED: ...` (another one).
TEXT
}

arguments=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --quick) arguments+=(-m "not slow") ;;
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
step "ruff check" "$PY" -m ruff check --quiet .
step "ruff format --check" "$PY" -m ruff format --check --quiet .
step "mypy" "$PY" -m mypy dynamic_routing
step "pytest" "$PY" -m pytest -n 2 ${arguments[@]+"${arguments[@]}"}
finish
