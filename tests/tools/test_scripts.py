"""demo.sh, test.sh and .ci/run, with a stand-in for `.venv/bin/python`: nothing is installed."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import unittest.mock
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("demo.sh", "test.sh", ".ci/run", "scripts/common.sh", "setup.py", "constraints.txt")
COPIED += ("tools/install_detectron2.py", "tools/_detectron2_wheel.py")
# Notes its folder and arguments; reads programs from standard input with the real Python. What it
# does for `-m pip` and for everything else that is noted comes from the environment.
STAND_IN = f"""#!/bin/sh
case "$1" in
  -) exec '{sys.executable}' "$@" ;;
  -c | -V) exit 0 ;;
esac
printf '%s|' "$PWD" "$@" >>"$CALLS"
echo >>"$CALLS"
case "$2" in pip) eval "${{ON_PIP:-true}}" ;; *) eval "${{ON_OTHER:-true}}" ;; esac
"""


class Clone:
    """A copy of the scripts in a folder with a space, with the stand-in as its Python."""

    def __init__(self, folder: Path, *, environment: str = ".venv") -> None:
        self.root = folder / "a clone"
        self.calls_file = folder / "calls"
        for name in COPIED:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        python = self.root / environment / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN)
        python.chmod(0o755)

    def start(
        self, script: str, *arguments: str, cwd: Path | None = None, **extra: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / script), *arguments],
            cwd=cwd or self.root,
            env=os.environ | {"CALLS": str(self.calls_file)} | extra,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, script: str, *arguments: str, cwd: Path | None = None, **extra: str
    ) -> tuple[int, list[str]]:
        """Exit status and lines of output."""
        process = self.start(script, *arguments, cwd=cwd, **extra)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output.splitlines()

    def calls(self) -> list[list[str]]:
        """Folder and arguments of each call of the stand-in since the last time."""
        if not self.calls_file.exists():
            return []
        lines = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return [line.rstrip("|").split("|") for line in lines]

    def pip_calls(self) -> list[list[str]]:
        return [call for call in self.calls() if call[1:3] == ["-m", "pip"]]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.fixture
def installed(clone: Clone) -> Clone:
    """A clone whose first run is over."""
    status, lines = clone.run("test.sh")
    assert status == 0, lines
    clone.calls()
    return clone


@pytest.mark.parametrize("script", ["demo.sh", "test.sh"])
@pytest.mark.parametrize("argument", ["--unknown", "word", "--output"])
def test_a_usage_error_is_one_line_and_status_2(clone, script, argument):
    status, lines = clone.run(script, argument)
    assert (status, len(lines)) == (2, 1)
    assert lines[0].startswith("FAILED: ")
    assert not clone.calls()


@pytest.mark.parametrize("script", ["demo.sh", "test.sh"])
def test_help_installs_nothing(clone, script):
    status, lines = clone.run(script, "--help")
    assert status == 0 and lines[0].startswith(f"usage: ./{script}")
    assert not clone.calls()


def test_the_first_run_installs_and_the_second_does_not(clone):
    status, lines = clone.run("test.sh")
    assert status == 0 and re.fullmatch(r"OK in \d+ m \d+ s", lines[-1])
    torch, rest = clone.pip_calls()
    assert "torch" in torch
    assert rest[-1] == f"{clone.root}[dev,cityscapes,export]"
    status, lines = clone.run("demo.sh")
    assert status == 0 and not clone.pip_calls()


def test_new_pins_are_installed(installed):
    (installed.root / "constraints.txt").write_text("numpy==1.26.0\n")
    assert installed.run("test.sh")[0] == 0
    assert len(installed.pip_calls()) == 2


def test_a_moved_clone_is_installed_again(installed, tmp_path):
    installed.root = installed.root.rename(tmp_path / "moved here")
    assert installed.run("test.sh")[0] == 0
    assert installed.pip_calls()[-1][-1] == f"{tmp_path / 'moved here'}[dev,cityscapes,export]"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("broken by NewConnectionError: no route", "no network"),
        ("OSError: [Errno 28] No space left on device", "no space left on the disk"),
        ("ERROR: No matching distribution found for torch", "ERROR: No matching distribution"),
    ],
)
def test_a_failed_installation_says_why_and_is_tried_again(clone, output, reason):
    status, lines = clone.run("test.sh", ON_PIP=f"echo '{output}'; exit 1")
    assert status == 1
    assert lines[-1].startswith(f"FAILED: installing PyTorch (several GB): {reason}")
    assert lines[-1].endswith(f"(log: {clone.root}/.venv/install.log)")
    clone.calls()
    assert clone.run("test.sh")[0] == 0
    assert len(clone.pip_calls()) == 2


@pytest.mark.slow
def test_two_runs_at_once_install_once(clone):
    first = clone.start("test.sh", ON_PIP="sleep 0.5")
    second = clone.start("test.sh", ON_PIP="sleep 0.5")
    outputs = [process.communicate(timeout=30)[0] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert len(clone.pip_calls()) == 2


@pytest.mark.slow
def test_a_stopped_run_says_so_and_ends_its_installation(clone):
    process = clone.start("test.sh", ON_PIP="echo $$ >>pid; exec sleep 60")
    deadline = time.monotonic() + 20
    while not (clone.root / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 143
    assert output.splitlines()[-1] == "FAILED: stopped while: installing PyTorch (several GB)"
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int((clone.root / "pid").read_text()), 0)
            time.sleep(0.05)


def test_a_full_disk_is_noticed_before_anything_is_done(clone, tmp_path):
    df = tmp_path / "bin" / "df"
    df.parent.mkdir()
    df.write_text("#!/bin/sh\necho header\necho /dev/x 9 9 1048576 9% /\n")
    df.chmod(0o755)
    status, lines = clone.run("demo.sh", PATH=f"{df.parent}:{os.environ['PATH']}")
    assert status == 1 and lines == [
        f"FAILED: not enough disk space: 1 GB free where 8 GB are needed ({clone.root})"
    ]


def test_without_a_new_enough_python_one_line_says_so(clone):
    shutil.rmtree(clone.root / ".venv")
    status, lines = clone.run("test.sh", PYTHON="/bin/false")
    assert status == 1 and len(lines) == 1
    assert lines[0].startswith("FAILED: no Python 3.10 or newer found")


def test_test_sh_runs_every_check_and_hands_arguments_on(installed):
    status, lines = installed.run("test.sh", "--quick", "--", "-k", "two words")
    assert status == 0 and lines[-1].startswith("OK in ")
    calls = installed.calls()
    assert all(call[0] == str(installed.root) for call in calls)
    assert [call[1:] for call in calls] == [
        ["-m", "ruff", "check", "--quiet", "."],
        ["-m", "ruff", "format", "--check", "--quiet", "."],
        ["-m", "mypy", "dynamic_routing"],
        ["-m", "pytest", "-n", "2", "-m", "not slow", "-k", "two words"],
    ]


def test_without_quick_no_test_is_left_out(installed):
    assert installed.run("test.sh")[0] == 0
    assert installed.calls()[-1][1:] == ["-m", "pytest", "-n", "2"]


def lower_bounds() -> set[str]:
    """`name==bound` for each requirement of setup.py that has one, read by running it."""
    with unittest.mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    settings = setup.call_args.kwargs
    groups = [settings["install_requires"], *settings["extras_require"].values()]
    requirements = [Requirement(text) for group in groups for text in group]
    return {
        f"{each.name}=={bound.version}"
        for each in requirements
        for bound in each.specifier
        if bound.operator == ">="
    }


def test_oldest_versions_are_the_lower_bounds_and_run_the_tests_alone(tmp_path):
    clone = Clone(tmp_path, environment=".venv-oldest")
    status, lines = clone.run("test.sh", "--versions", "oldest", "--quick")
    assert status == 0 and lines[-1].startswith("OK in ")
    folder = clone.root / ".venv-oldest"
    assert set((folder / "constraints.txt").read_text().split()) == lower_bounds()
    assert len(lower_bounds()) > 20
    calls = clone.calls()
    installations = [call for call in calls if call[1:3] == ["-m", "pip"]]
    assert len(installations) == 2
    assert all(str(folder / "constraints.txt") in call for call in installations)
    checks = [call[1:] for call in calls if {"ruff", "mypy", "pytest"} & set(call)]
    words = ["-m", "pytest", "-n", "2", "-m", "not slow", "-W", "ignore::DeprecationWarning"]
    assert len(checks) == 1 and checks[0][: len(words)] == words
    assert set(checks[0][len(words) :: 2]) == {"-W"}
    assert not (clone.root / ".venv").exists()


def test_newest_versions_are_bound_by_nothing_but_setup_py(tmp_path):
    clone = Clone(tmp_path, environment=".venv-newest")
    assert clone.run("test.sh", "--versions", "newest")[0] == 0
    assert (clone.root / ".venv-newest" / "constraints.txt").read_text() == ""
    assert clone.calls()[-1][1:] == ["-m", "pytest", "-n", "2"]


@pytest.mark.parametrize("words", [("--versions",), ("--versions", "best")])
def test_unknown_versions_are_one_line(clone, words):
    status, lines = clone.run("test.sh", *words)
    assert status == 2 and len(lines) == 1
    assert "takes tested, oldest or newest, not '" in lines[0]


def test_coverage_is_collected_from_all_processes_and_reported(installed):
    status, lines = installed.run("test.sh", "--coverage", "--quick")
    assert status == 0, lines
    assert [call[1:] for call in installed.calls()][-3:] == [
        ["-m", "coverage", "run", "-m", "pytest", "-n", "2", "-m", "not slow"],
        ["-m", "coverage", "combine", "--quiet"],
        ["-m", "coverage", "report", "--skip-covered"],
    ]


def test_a_failing_check_ends_the_run(installed):
    status, lines = installed.run("test.sh", ON_OTHER="exit 3")
    assert status == 1 and len(installed.calls()) == 1
    assert lines[-1] == "FAILED: ruff check (exit status 3; see the output above)"


@pytest.mark.parametrize("arguments", [("--output", "my results"), ("--output=my results",)])
def test_the_output_folder_is_relative_to_the_caller(installed, tmp_path, arguments):
    status, lines = installed.run("demo.sh", "--quick", *arguments, cwd=tmp_path)
    assert status == 0 and lines[-1].startswith("OK in ")
    (call,) = installed.calls()
    expected = ["tools/run_demo.py", "--quick", "--output", str(tmp_path / "my results")]
    assert call == [str(installed.root), *expected]


def test_an_absolute_output_folder_stays(installed, tmp_path):
    assert installed.run("demo.sh", "--output", str(tmp_path / "out"))[0] == 0
    assert installed.calls()[0][-1] == str(tmp_path / "out")


def test_ci_calls_test_sh_from_any_folder(installed, tmp_path):
    status, lines = installed.run(".ci/run", cwd=tmp_path)
    assert status == 0 and lines[-1].startswith("OK in ")
    assert installed.calls()[-1][1:] == ["-m", "pytest", "-n", "2"]
