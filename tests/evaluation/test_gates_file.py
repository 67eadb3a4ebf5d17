"""The gates file keeps everything exactly, and refuses what it cannot trust."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamic_routing.evaluation.gates_file import GatesFile, GatesFileError, load_gates, save_gates
from dynamic_routing.routing import RoutingSpace

SPACE = RoutingSpace.grid(3, num_scales=3)
EDGES = len(SPACE.edges)


def example(images=4, **changes):
    generator = torch.Generator().manual_seed(1)
    fields = {
        "space": SPACE,
        "gates": torch.rand(images, EDGES, generator=generator),
        "rule": "released",
        "file_names": tuple(f"städte/bild <{i}>.png" for i in range(images)),
        "image_sizes": np.arange(2 * images).reshape(images, 2) * 32,
        "milliseconds": np.array([12.5, float("nan")] * images)[:images],
        "image_ids": (7, "aachen", None, 2**60)[:images],
        "costs": {"gmacs": np.linspace(1, 2, images)},
    }
    return GatesFile(**{**fields, **changes})


def test_everything_comes_back(tmp_path):
    records = example()
    path = save_gates(tmp_path / "new folder" / "gates.npz", records)
    loaded = load_gates(path)
    assert loaded.space == SPACE and loaded.rule == "released"
    assert torch.equal(loaded.gates, records.gates) and loaded.gates.dtype == torch.float32
    assert loaded.file_names == records.file_names and loaded.image_ids == records.image_ids
    assert np.array_equal(loaded.image_sizes, records.image_sizes)
    assert np.array_equal(loaded.milliseconds, records.milliseconds, equal_nan=True)
    assert np.array_equal(loaded.costs["gmacs"], records.costs["gmacs"])
    assert len(loaded) == len(loaded.routes) == 4
    assert loaded.routes.image_size == (192, 224)
    assert loaded[1].image_size == (64, 96) and torch.equal(loaded[-1].gates, records.gates[3:])


def test_format_is_as_documented(tmp_path):
    path = save_gates(tmp_path / "gates.npz", example())
    with np.load(path, allow_pickle=False) as stored:
        kinds = {
            name: (stored[name].dtype.str.strip("<>")[:2], stored[name].shape) for name in stored
        }
        edges = json.loads(str(stored["edges"]))
        assert str(stored["format"]) == "dynamic_routing gates" and int(stored["version"]) == 1
        assert json.loads(str(stored["image_ids"])) == [7, "aachen", None, 2**60]
    assert kinds["gates"] == ("f4", (4, EDGES)) and kinds["image_sizes"] == ("i8", (4, 2))
    assert kinds["milliseconds"] == kinds["cost.gmacs"] == ("f8", (4,))
    assert [tuple(e) for e in edges] == SPACE.to_edges() and kinds["file_names"][1] == (4,)


def test_equal_records_give_equal_bytes_and_no_leftovers(tmp_path):
    first = save_gates(tmp_path / "a.npz", example()).read_bytes()
    assert save_gates(tmp_path / "b.npz", example()).read_bytes() == first
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "b.npz"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = save_gates(tmp_path / "gates.npz", example())
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        save_gates(path, example(images=2))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["gates.npz"]


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return save_gates(tmp_path_factory.mktemp("gates") / "gates.npz", example()).read_bytes()


def check_damaged(folder, damaged):
    """A damaged file either raises GatesFileError or still says exactly what was written."""
    path = folder / "damaged.npz"
    path.write_bytes(damaged)
    try:
        loaded = load_gates(path)
    except GatesFileError as error:
        assert "damaged.npz" in str(error)
        return True
    assert torch.equal(loaded.gates, example().gates)
    assert loaded.file_names == example().file_names and loaded.space == SPACE
    return False


def test_every_truncation_is_refused(content, tmp_path):
    for length in range(0, len(content), 37):
        assert check_damaged(tmp_path, content[:length]), length


@pytest.mark.slow
def test_no_flipped_byte_goes_through(content, tmp_path):
    refused = 0
    for position in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        refused += check_damaged(tmp_path, bytes(damaged))
    assert refused > len(content) / 5 / 2


@given(position=st.integers(0, 10**6), new=st.binary(min_size=1, max_size=40))
def test_no_overwritten_part_goes_through(content, tmp_path_factory, position, new):
    position %= len(content)
    damaged = content[:position] + new + content[position + len(new) :]
    check_damaged(tmp_path_factory.getbasetemp(), damaged)


def entries(content):
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored}


FOREIGN = {
    "another format": {"format": np.array("other")},
    "newer version": {"version": np.array(2)},
    "objects": {"file_names": np.array(["a", None, 3, 4], dtype=object)},
    "double gates of the wrong width": {"gates": np.zeros((4, 5))},
    "nan": {"gates": np.full((4, EDGES), np.nan, dtype=np.float32)},
    "unknown rule": {"rule": np.array("sometimes")},
    "edges out of order": {"edges": np.array(json.dumps(SPACE.to_edges()[::-1]))},
    "edges are a number": {"edges": np.array("17")},
    "deep json": {"edges": np.array("[" * 100_000)},
    "ids are lists": {"image_ids": np.array("[[1], 2, 3, 4]")},
    "too few ids": {"image_ids": np.array("[1]")},
    "sizes as text": {"image_sizes": np.array([["1", "2"]] * 4)},
    "no gates": {"gates": None},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_entries_are_refused(content, tmp_path, what):
    arrays = {k: v for k, v in {**entries(content), **FOREIGN[what]}.items() if v is not None}
    path = tmp_path / "foreign.npz"
    np.savez_compressed(path, **arrays)
    with pytest.raises(GatesFileError, match="holds no gates"):
        load_gates(path)


def test_foreign_files_are_refused(tmp_path):
    for name, data in {"empty": b"", "text": b"hello", "png": b"\x89PNG\r\n\x1a\n"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(GatesFileError, match=name):
            load_gates(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "lies.npz", "w") as archive:
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }"
        archive.writestr("gates.npy", b"\x93NUMPY\x01\x00F\x00" + header.encode())
    with pytest.raises(GatesFileError):
        load_gates(tmp_path / "lies.npz")
    with pytest.raises(FileNotFoundError):
        load_gates(tmp_path / "nothing.npz")


def test_errors_name_the_value():
    with pytest.raises(ValueError, match=r"image_sizes of 4 images must have shape \(4, 2\)"):
        example(image_sizes=np.zeros((3, 2), dtype=int))
    with pytest.raises(ValueError, match=r"cost.gmacs.*got \(5,\)"):
        example(costs={"gmacs": np.zeros(5)})
    with pytest.raises(ValueError, match="float64"):
        example(gates=torch.zeros(4, EDGES, dtype=torch.float64))
    gates = torch.zeros(4, EDGES)
    gates[2, 1] = float("inf")
    with pytest.raises(ValueError, match="bild <2>.png are not finite"):
        example(gates=gates)
