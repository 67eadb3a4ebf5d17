"""One training a folder, also after a kill; the lock goes with the process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from dynamic_routing.engine import run_lock
from dynamic_routing.engine.run_lock import LOCK_NAME, FolderInUseError, RunLock
from dynamic_routing.files import WriteError
from tests.modeling.builders import REPOSITORY

# The module alone: importing the engine would take seconds.
HOLD = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("run_lock", sys.argv[2])
run_lock = importlib.util.module_from_spec(spec)
sys.modules["run_lock"] = run_lock
spec.loader.exec_module(run_lock)
try:
    lock = run_lock.RunLock(sys.argv[1])
except run_lock.FolderInUseError as error:
    sys.exit(str(error))
if os.fork() == 0:  # as the workers of a data loader
    time.sleep(60)
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""


def other_process(folder):
    command = [sys.executable, "-c", HOLD, str(folder), run_lock.__file__]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_second_run_is_refused_by_name_and_a_killed_one_leaves_the_folder_free(tmp_path):
    first = other_process(tmp_path)
    try:
        assert first.stdout.readline() == "held\n"
        expected = f"OUTPUT_DIR {tmp_path} is in use by process {first.pid} on "
        with pytest.raises(FolderInUseError, match=expected):
            RunLock(tmp_path)
        first.kill()
        first.wait()
        with RunLock(tmp_path):  # although a child of the killed process lives on
            second = other_process(tmp_path)
            _, error = second.communicate()
            assert second.returncode == 1
            assert f"is in use by process {os.getpid()} on " in error
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


def test_released_lock_names_nobody(tmp_path):
    lock = RunLock(tmp_path / "made")
    assert str(os.getpid()) in (tmp_path / "made" / LOCK_NAME).read_text()
    lock.release()
    lock.release()
    assert (tmp_path / "made" / LOCK_NAME).read_text() == ""


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=f"cannot write {tmp_path / 'file' / LOCK_NAME}: "):
        RunLock(tmp_path / "file")


def test_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, caplog):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with RunLock(tmp_path):
        assert "cannot be locked" in caplog.text
