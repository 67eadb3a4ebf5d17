"""Damaged files: every reader raises its documented error and nothing else, or reads them."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_tools
from safetensors.torch import save as save_safetensors

from dynamic_routing.analysis.curves import read_training_log
from dynamic_routing.analysis.run_folder import NotAvailable, flatten, read_results
from dynamic_routing.data.coco_checks import coco_report
from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.engine.weight_files import CheckpointError, read_weights
from dynamic_routing.evaluation.gates_file import GatesFile, GatesFileError, load_gates, save_gates
from dynamic_routing.modeling import ConfigError, get_config
from dynamic_routing.routing import RoutingSpace
from dynamic_routing.routing.subnetworks import read_subgraph
from tests.evaluation.tiny_coco import HEIGHT, WIDTH, coco_dataset
from tests.fuzzing import Reader, fuzz

QUICK_CASES = 30
LEAST_CASES = 10_000
"""Of the slow tests together; the README states it."""

SPACE = RoutingSpace.grid(2, num_scales=2)
WEIGHTS = {"conv.weight": torch.arange(6.0).reshape(2, 3), "conv.bias": torch.zeros(2)}
YAML = {
    "VERSION": 2,
    "MODEL": {"DYNAMIC_ROUTING": {"WIDTH": 8, "GATE": {"ACTIVATION": "sigmoid"}}},
    "SOLVER": {"BASE_LR": 0.1, "STEPS": [3, 4]},
    "DATASETS": {"TRAIN": ["a"], "CUSTOM": [{"name": "a", "type": "coco"}]},
}
RESULTS = {"sem_seg": {"mIoU": 12.5, "IoU-car": float("nan")}, "routing": {"images": 3.0}}
METRICS = [
    {"iteration": i, "total_loss": 2.0 - i / 10, "lr": 0.1, "sem_seg/mIoU": 3.0} for i in range(6)
]


def torch_bytes(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def gates_bytes(folder):
    records = GatesFile(
        space=SPACE,
        gates=torch.rand(3, len(SPACE.edges), generator=torch.Generator().manual_seed(0)),
        rule="absent",
        file_names=("a", "b", "c"),
        image_sizes=np.full((3, 2), 64),
        milliseconds=np.ones(3),
        image_ids=(1, 2, None),
        costs={"gmacs": np.ones(3)},
    )
    return save_gates(folder / "valid.npz", records).read_bytes()


def coco_bytes():
    """Polygons, run lengths as a list, and run lengths as a text."""
    content = coco_dataset(images=2, objects=2)
    crowd = content["annotations"][0]
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    left, top, width, height = map(int, crowd["bbox"])
    mask[top : top + height, left : left + width] = 1
    counts = mask_tools.encode(mask)["counts"].decode()
    segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
    content["annotations"].append({**crowd, "id": 99, "segmentation": segmentation})
    return json.dumps(content).encode()


def readable_report(path):
    """Annotations are not refused by an exception: the report lists what is wrong.

    What it lets pass goes to pycocotools, C without checks, and must be a mask of its image's size.
    """
    report = coco_report(path)
    assert report.num_errors == 0 or report.errors
    if report.num_errors:
        raise Refused("\n".join(report.errors))
    for annotation in json.loads(path.read_bytes())["annotations"]:
        runs = annotation.get("segmentation")
        if isinstance(runs, dict):
            height, width = runs["size"]
            packed = isinstance(runs["counts"], str)
            rle = runs if packed else mask_tools.frPyObjects(runs, height, width)
            mask = mask_tools.decode(rle)
            assert mask.shape == (HEIGHT, WIDTH) and mask.max() <= 1


class Refused(ValueError):
    """The report found errors."""


def readable_results(path):
    results = read_results(path.parent)
    if not isinstance(results, NotAvailable):
        flatten(results)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Linear(3, 2)


def load_checkpoint(path):
    """A training's checkpoint, as far as a model needs it."""
    RoutingCheckpointer(Model(), strict=True).load(str(path))


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """Every reader by name."""
    checkpoint = {"model": WEIGHTS, "routing": {}, "iteration": 3}
    gates = gates_bytes(tmp_path_factory.mktemp("gates"))
    found = [
        Reader("gates.npz", gates, load_gates, GatesFileError, 2200),
        Reader("a.pth", torch_bytes(checkpoint), load_checkpoint, CheckpointError, 1600),
        Reader("a.safetensors", save_safetensors(WEIGHTS), read_weights, CheckpointError, 1600),
        Reader("instances.json", coco_bytes(), readable_report, Refused, 2200),
        Reader(
            "subgraph.json", json.dumps(SPACE.to_edges()).encode(), read_subgraph, ValueError, 1200
        ),
        Reader("results.json", json.dumps(RESULTS).encode(), readable_results, ValueError, 800),
        Reader(
            "metrics.json",
            "\n".join(map(json.dumps, METRICS)).encode(),
            read_training_log,
            ValueError,
            800,
        ),
        Reader("a.yaml", yaml.safe_dump(YAML).encode(), get_config, ConfigError, 300),
    ]
    assert sum(reader.cases for reader in found) >= LEAST_CASES
    return {reader.name: reader for reader in found}


NAMES = (
    "gates.npz a.pth a.safetensors instances.json subgraph.json results.json metrics.json a.yaml"
).split()


@pytest.mark.parametrize("name", NAMES)
def test_damaged_file_raises_the_documented_error_and_nothing_else(readers, tmp_path, name):
    fuzz(readers[name], tmp_path, cases=QUICK_CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_thousands_of_damaged_files_raise_nothing_else(readers, tmp_path, name):
    refused = fuzz(readers[name], tmp_path, cases=readers[name].cases)
    # A results file is not raised about, and of metrics only the damaged lines are left out.
    assert refused > 0 or name in ("results.json", "metrics.json")


# Files that are whole, with parts of another kind -----------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([torch.zeros(2), torch.zeros(0), torch.zeros(2, 3, dtype=torch.int64)]),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("odd")


@settings(max_examples=60)
@given(part=st.sampled_from(["model", "routing", "conv.weight", ""]), odd=ODD)
def test_checkpoint_with_a_part_of_another_kind_is_refused(folder, part, odd):
    content = {"model": dict(WEIGHTS), "routing": {"net": {"operations": ["a"]}}}
    if part == "conv.weight":
        content["model"][part] = odd
    elif part:
        content[part] = odd
    path = folder / "a.pth"
    torch.save(content if part else odd, path)
    try:
        load_checkpoint(path)
    except CheckpointError as error:
        assert str(error)


ARRAYS = st.sampled_from(
    [
        np.zeros(3),
        np.full(3, np.nan),
        np.zeros((3, 2), dtype=np.int64),
        np.full((3, 2), -1),
        np.zeros((0, 2), dtype=np.int64),
        np.array("x"),
        np.array("[]"),
        np.array("[[9, 9, 9]]"),
        np.array("{}"),
        np.array(2**62),
        np.array(["a", "a", "a"]),
        np.full((3, len(SPACE.edges)), 2.0, dtype=np.float32),
        np.full((3, len(SPACE.edges)), np.nan, dtype=np.float32),
        np.zeros((3, len(SPACE.edges)), dtype=np.complex64),
    ]
)
ENTRIES = (
    "format version edges rule gates file_names image_ids image_sizes milliseconds cost.gmacs "
    "clusters distances centres"
).split()


@settings(max_examples=80)
@given(changes=st.dictionaries(st.sampled_from(ENTRIES), ARRAYS, min_size=1, max_size=3))
def test_gates_file_with_a_part_of_another_kind_is_refused(readers, folder, changes):
    with np.load(io.BytesIO(readers["gates.npz"].content)) as stored:
        arrays = {name: stored[name] for name in stored}
    np.savez(folder / "gates.npz", **{**arrays, **changes})
    try:
        loaded = load_gates(folder / "gates.npz")
    except GatesFileError:
        return
    # What is read has gates that can be used.
    assert loaded.gates.shape == (3, len(SPACE.edges)) and loaded.gates.dtype == torch.float32
