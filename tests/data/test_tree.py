"""Writing trees completely or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.tree import image_generator, write_tree

ENDLESS = """
import sys
from dynamic_routing.data.cityscapes import generate_cityscapes
generate_cityscapes(sys.argv[1], counts={"train": 100000}, size=(32, 32),
                    progress=lambda done, total: print(done, flush=True))
"""


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def write_one(folder: Path) -> None:
    (folder / "a.txt").write_text("a")


def test_killed_generation_leaves_nothing_half_written(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "1"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "cityscapes").exists()
    assert len(visible(tmp_path)) == 1  # the hidden folder, which the next run removes
    generate_cityscapes(tmp_path, counts={"train": 1}, size=(32, 32))
    assert visible(tmp_path) == ["cityscapes"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_generation_cleans_up(tmp_path: Path, error: type[BaseException]) -> None:
    def stop(done: int, total: int) -> None:
        raise error

    with pytest.raises(error):
        generate_cityscapes(tmp_path, counts={"train": 2}, size=(32, 32), progress=stop)
    assert visible(tmp_path) == []


def test_same_parameters_write_nothing(tmp_path: Path) -> None:
    target = tmp_path / "tree"
    assert write_tree(target, parameters={"seed": 1}, write=write_one)
    (target / "a.txt").write_text("kept")
    assert not write_tree(target, parameters={"seed": 1}, write=write_one)
    assert not write_tree(target, parameters={"seed": 1}, write=write_one, overwrite=True)
    assert (target / "a.txt").read_text() == "kept"


def test_other_parameters_are_refused_unless_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "tree"
    write_tree(target, parameters={"seed": 1, "size": 2}, write=write_one)
    (target / "old.txt").write_text("old")
    with pytest.raises(ValueError, match=r"seed: 1 there, 3 asked for\)"):
        write_tree(target, parameters={"seed": 3, "size": 2}, write=write_one)
    assert write_tree(target, parameters={"seed": 3, "size": 2}, write=write_one, overwrite=True)
    assert visible(target) == ["a.txt", "generated.json"]
    assert visible(tmp_path) == ["tree"]


def test_failed_overwrite_keeps_the_old_tree(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError("disk full")

    target = tmp_path / "tree"
    write_tree(target, parameters={"seed": 1}, write=write_one)
    with pytest.raises(OSError, match="disk full"):
        write_tree(target, parameters={"seed": 2}, write=fail, overwrite=True)
    assert not write_tree(target, parameters={"seed": 1}, write=write_one)


@pytest.mark.parametrize("overwrite", [False, True])
def test_real_data_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    target = tmp_path / "cityscapes"
    (target / "leftImg8bit").mkdir(parents=True)
    with pytest.raises(ValueError, match="was not generated"):
        write_tree(target, parameters={}, write=write_one, overwrite=overwrite)
    assert visible(target) == ["leftImg8bit"]


def test_image_generators_differ_between_splits_and_images() -> None:
    keys = [(0, "train", 0), (0, "train", 1), (0, "val", 0), (1, "train", 0)]
    draws = [image_generator(*key).integers(1 << 60) for key in keys]
    assert len(set(np.array(draws).tolist())) == 4
