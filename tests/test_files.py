"""Files: whole or not at all, with one line when the disk says no, and strict JSON."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic_routing import files
from dynamic_routing.files import (
    WriteError,
    atomic_file,
    remove_leftovers,
    strict_json,
    write_atomically,
    write_json,
)


class FullDisk:
    """A file on a disk without room behind the first bytes."""

    def __init__(self, file, room):
        self._file = file
        self._room = room

    def write(self, content):
        self._room -= len(content)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(content)

    def __enter__(self):
        return self

    def __exit__(self, *_arguments):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.fixture
def full_disk(monkeypatch):
    """From now on 1,000 bytes fit into a new file."""
    real = open

    def limited(path, mode="r", **options):
        file = real(path, mode, **options)
        return FullDisk(file, 1000) if mode == "wb" else file

    monkeypatch.setattr(files, "open", limited, raising=False)


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_content_replaces_the_old_one_in_one_step(tmp_path):
    path = tmp_path / "made" / "file"
    write_atomically(path, b"old")
    with atomic_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and names(path.parent) == ["file"]


@pytest.mark.parametrize("writer", ["bytes", "torch"])
def test_full_disk_is_one_line_and_the_old_file_stays(tmp_path, full_disk, writer):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(WriteError) as info, atomic_file(path) as file:
        if writer == "bytes":
            file.write(b"x" * 2000)
        else:
            torch.save({"a": torch.zeros(5000)}, file)
    assert str(info.value) == (
        f"cannot write {path}: No space left on device; nothing that was there is lost"
    )
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_full_disk_found_while_syncing_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_atomically(tmp_path / "file", b"old")

    def full(_descriptor):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="Disk quota exceeded"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_read_only_folder_is_one_line(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "a temporary name")

    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(WriteError) as info:
        write_atomically(tmp_path / "file", b"new")
    assert "file: Read-only file system" in str(info.value)
    assert "temporary" not in str(info.value)


def test_folder_that_is_a_file_is_one_line(tmp_path):
    write_atomically(tmp_path / "file", b"x")
    with pytest.raises(WriteError, match="cannot write .*below: "):
        write_atomically(tmp_path / "file" / "below", b"x")


def test_error_of_the_caller_is_not_touched(tmp_path):
    with pytest.raises(KeyError, match="own"), atomic_file(tmp_path / "file"):
        raise KeyError("own")
    assert names(tmp_path) == []


def test_order_of_writing_is_sync_rename_sync(tmp_path, monkeypatch):
    """Only this order survives a power cut."""
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (done.append(os.path.isdir(f"/proc/self/fd/{fd}")), sync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_atomically(tmp_path / "file", b"x")
    assert done == [False, "rename", True]


DIES_WHILE_WRITING = """
import os, signal, sys
from dynamic_routing.files import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_leftover_of_a_killed_process_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "inference").mkdir()
    path = write_atomically(tmp_path / "inference" / "file", b"old")
    subprocess.run([sys.executable, "-c", DIES_WHILE_WRITING, str(path)], check=False)
    (leftover,) = set(names(path.parent)) - {"file"}
    (tmp_path / ".mine.tmp").touch()
    assert path.read_bytes() == b"old"
    assert remove_leftovers(tmp_path) == [leftover]
    assert names(path.parent) == ["file"] and (tmp_path / ".mine.tmp").exists()


def test_what_another_process_writes_is_no_leftover(tmp_path):
    here, other = files._HOST, "another-machine"
    parent = os.getppid()
    for name in (f".a.{here}.{parent}.tmp", f".b.{other}.4.tmp"):
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == []
    old = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / f".b.{other}.4.tmp", (old, old))
    assert remove_leftovers(tmp_path) == [f".b.{other}.4.tmp"]


def test_json_is_strict_and_absent_numbers_are_null(tmp_path):
    content = {"a": {"x": math.nan, 1: [math.inf, np.float32(0.5), torch.tensor(2.0)]}, "b": None}
    path = write_json(tmp_path / "file.json", content | {"c": True, "d": "NaN", "e": 3})

    def refuse(word):
        raise AssertionError(word)

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found == {
        "a": {"x": None, "1": [None, 0.5, 2.0]},
        "b": None,
        "c": True,
        "d": "NaN",
        "e": 3,
    }
    assert json.loads(strict_json([np.int64(3)])) == [3.0]
