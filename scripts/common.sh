# Shared by demo.sh and test.sh, which source it with ROOT set: messages, the failure line, .venv.
# shellcheck shell=bash

set -euo pipefail

# use_versions tested|oldest|newest: which versions are installed and used, each in a folder of its
# own: those of constraints.txt, the lower bounds of setup.py, or whatever its ranges allow.
use_versions() {
  VERSIONS="$1"
  VENV="$ROOT/.venv"
  [[ "$VERSIONS" == tested ]] || VENV+="-$VERSIONS"
  PY="$VENV/bin/python"
  LOG="$VENV/install.log"
  STAMP="$VENV/.installed"
}
use_versions tested

# What decides whether an installation is up to date.
STAMP_FILES=(setup.py constraints.txt tools/install_detectron2.py tools/_detectron2_wheel.py)
MIN_PYTHON="3.10"
PYTHON_IS_NEW="import sys; sys.exit(sys.version_info < (${MIN_PYTHON/./, }))"
FULL_INSTALL_GB=8  # PyTorch with its CUDA libraries takes 5.5 GB, plus downloads
REST_GB=1
HEARTBEAT_S=10

STARTED=$SECONDS
CURRENT="starting"
FAILURE_SHOWN=""
CHILD=""
HEARTBEAT=""

# Progress line with the seconds since the start.
say() { printf '[%3d s] %s\n' "$((SECONDS - STARTED))" "$*"; }

# fail TEXT [STATUS]: the one line that says what failed.
fail() {
  FAILURE_SHOWN=yes
  printf 'FAILED: %s\n' "$1" >&2
  exit "${2:-1}"
}

usage_error() { fail "$1 (try --help)" 2; }

stop_children() {
  [[ -z "$HEARTBEAT" ]] || kill "$HEARTBEAT" 2>/dev/null || true
  [[ -z "$CHILD" ]] || kill "$CHILD" 2>/dev/null || true
}

on_exit() {
  local status=$?
  stop_children
  if [[ $status -ne 0 && -z "$FAILURE_SHOWN" ]]; then
    printf 'FAILED: %s (exit status %d)\n' "$CURRENT" "$status" >&2
  fi
}
trap on_exit EXIT
trap 'fail "interrupted while: $CURRENT" 130' INT
trap 'fail "stopped while: $CURRENT" 143' TERM

# The closing line of a successful run.
finish() {
  local seconds=$((SECONDS - STARTED))
  printf 'OK in %d m %d s\n' "$((seconds / 60))" "$((seconds % 60))"
}

# step NAME COMMAND...: run a check in the foreground; its own output says what is wrong.
step() {
  CURRENT="$1"
  say "$1"
  shift
  local status=0
  "$@" || status=$?
  [[ $status -eq 0 ]] || fail "$CURRENT (exit status $status; see the output above)"
}

# The last line of the log that tells how far pip has come.
pip_progress() {
  grep -aE '^ *(Collecting|Downloading|Building|Installing|Preparing)|^detectron2:' "$LOG" \
    2>/dev/null | tail -n 1 | sed 's|^ *||' | cut -c 1-64 || echo "still at it"
}

# quiet_step NAME PROGRAM...: run with output to the log, a line every HEARTBEAT_S seconds.
# A program, not a shell function: then $! is the program itself and stop_children ends it.
quiet_step() {
  CURRENT="$1"
  say "$1"
  shift
  printf '\n== %s\n' "$CURRENT" >>"$LOG"
  "$@" >>"$LOG" 2>&1 </dev/null &
  CHILD=$!
  # Ends with the program and with this shell, holds neither the lock (9) nor, while it sleeps, the
  # output. It does not rely on being killed: a signal just after the fork can be lost.
  local beats=0
  while kill -0 "$CHILD" 2>/dev/null && kill -0 $$ 2>/dev/null; do
    sleep 1 >/dev/null 2>&1
    beats=$((beats + 1))
    ((beats % HEARTBEAT_S)) ||
      say "  $(pip_progress) ($(du -sh "$VENV" 2>/dev/null | cut -f 1) in ${VENV##*/})"
  done 9>&- &
  HEARTBEAT=$!
  local status=0
  wait "$CHILD" || status=$?
  CHILD=""
  kill "$HEARTBEAT" 2>/dev/null || true
  wait "$HEARTBEAT" 2>/dev/null || true
  HEARTBEAT=""
  [[ $status -eq 0 ]] || fail "$CURRENT: $(reason_in_log) (log: $LOG)"
}

# Output of the last logged command.
last_output() { awk '/^== / {text = ""} {text = text $0 "\n"} END {printf "%s", text}' "$LOG"; }

# Why the last logged command failed, as one short text.
reason_in_log() {
  local text
  text=$(last_output)
  if grep -q 'No space left' <<<"$text"; then
    echo "no space left on the disk"
  elif grep -q 'ensurepip is not available' <<<"$text"; then
    echo "this Python cannot make environments; install its venv package (python3-venv)"
  elif grep -qE 'NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError' <<<"$text"; then
    echo "no network, or the package index cannot be reached"
  else
    grep -E '^(ERROR|FAILED)' <<<"$text" | tail -n 1 | cut -c 1-200 || echo "it failed"
  fi
}

# Prints the first Python that is new enough; if $PYTHON is set, no other is tried.
find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" ${PYTHON:-python3.13 python3.12 python3.11 python3.10}; do
    if "$candidate" -c "$PYTHON_IS_NEW" >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# A digest over everything that the environment depends on, its place and its Python included.
wanted_stamp() {
  (cd "$ROOT" && "$PY" - "${STAMP_FILES[@]}" <<'PYTHON_CODE'
import hashlib
import pathlib
import sys

digest = hashlib.sha256(f"{pathlib.Path.cwd()} {sys.version}".encode())
for name in sys.argv[1:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PYTHON_CODE
  )
}

is_installed() {
  [[ -x "$PY" && -f "$STAMP" ]] && [[ "$(wanted_stamp 2>/dev/null)" == "$(<"$STAMP")" ]]
}

require_space() {
  local need=$FULL_INSTALL_GB free
  ! compgen -G "$VENV/lib/python*/site-packages/torch/version.py" >/dev/null || need=$REST_GB
  free=$(df -Pk "$ROOT" | awk 'NR == 2 {print int($4 / 1048576)}')
  [[ "$free" -ge "$need" ]] ||
    fail "not enough disk space: $free GB free where $need GB are needed ($ROOT)"
}

make_venv() {
  local python
  if ! "$PY" -c 'import pip' >/dev/null 2>&1; then
    python=$(find_python) ||
      fail "no Python $MIN_PYTHON or newer found (PYTHON=/path/to/python3 names one)"
    # Links to a Python that is gone would be kept.
    rm -f "$VENV"/bin/python*
    quiet_step "making ${VENV##*/} with $("$python" -V)" "$python" -m venv "$VENV"
  fi
  "$PY" -c "$PYTHON_IS_NEW" ||
    fail "$("$PY" -V) in $VENV is older than $MIN_PYTHON: remove that folder and run again"
}

# The constraints of $VERSIONS; `newest` has none beside the ranges of setup.py.
write_constraints() {
  case $VERSIONS in
    tested) cat "$ROOT/constraints.txt" ;;
    oldest) grep -oE '"[^ "<>]+>=[0-9a-z.]+' "$ROOT/setup.py" | sed -E 's/"|\[.*\]//g; s/>=/==/' ;;
    newest) ;;
  esac >"$VENV/constraints.txt"
}

# PyTorch first: Detectron2's official source needs it to be built. Source distributions are built
# with the setuptools of .venv, so that nothing is downloaded for a build.
install_all() {
  local installer="$ROOT/tools/install_detectron2.py" needs="$VENV/detectron2.txt"
  local pip=("$PY" -m pip install --disable-pip-version-check -c "$VENV/constraints.txt")
  require_space
  : >"$LOG"
  make_venv
  write_constraints
  quiet_step "checking what is already in ${VENV##*/}" "$PY" "$ROOT/tools/check_venv.py"
  quiet_step "installing PyTorch (several GB)" "${pip[@]}" torch torchvision setuptools wheel
  "$PY" "$installer" --list-requirements >"$needs"
  quiet_step "installing the project and its requirements" \
    "${pip[@]}" --no-build-isolation -r "$needs" -e "$ROOT[dev,cityscapes,export]"
  quiet_step "installing Detectron2" "$PY" "$installer" --no-requirements
  say "  $(last_output | tail -n 1)"
  wanted_stamp >"$STAMP.new"
  mv "$STAMP.new" "$STAMP"
}

# Make $VENV hold what this version of the project needs; does nothing if it does already.
# Two runs at once take turns where flock is there.
ensure_environment() {
  CURRENT="checking ${VENV##*/}"
  if is_installed; then
    say "environment is up to date"
    return
  fi
  mkdir -p "$VENV" || fail "cannot write to $ROOT"
  exec 9>>"$VENV/.lock"
  if command -v flock >/dev/null && ! flock -n 9; then
    say "another run is installing: waiting for it"
    CURRENT="waiting for another installation"
    flock 9
  fi
  is_installed || install_all
  exec 9>&-
  CURRENT="starting"
}
