#!/usr/bin/env bash
# Makes .venv if it is missing and runs the main job (tools/run_demo.py).
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/common.sh
source "$ROOT/scripts/common.sh"

usage() {
  cat <<'TEXT'
usage: ./demo.sh [--quick] [--output DIR]
  --quick       a smaller run, at most 90 s once everything is installed
  --output DIR  folder for the results, relative to the current folder
The last line is `OK in M m S s` (exit status 0) or `FAILED: ...` (another one).
TEXT
}

arguments=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --quick) arguments+=(--quick) ;;
    --output | --output=*)
      if [[ $1 == --output ]]; then
        [[ $# -ge 2 ]] || usage_error "--output needs a folder"
        shift
      fi
      output=${1#--output=}
      [[ -n $output ]] || usage_error "--output needs a folder"
      [[ $output == /* ]] || output="$PWD/$output"
      arguments+=(--output "$output")
      ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done

ensure_environment
cd "$ROOT"
# Threads that wait must not take the cores of those that work.
export OMP_WAIT_POLICY=PASSIVE
step "demo" "$PY" tools/run_demo.py ${arguments[@]+"${arguments[@]}"}
finish
