"""load_pretrained, and the snippets of the README's section on the Python API."""

from __future__ import annotations

import pytest
import torch

import dynamic_routing
from dynamic_routing import RoutingNetwork, RoutingSpace, get_config, load_pretrained
from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from dynamic_routing.engine.checkpoint_history import checkpoint_of
from dynamic_routing.engine.weight_files import write_weights
from tests.modeling.builders import QUICK, SMALL, batch, small_config, small_model
from tests.weight_formats import SUFFIXES


@pytest.fixture
def run(tmp_path):
    """A run's folder as train_net.py leaves it."""
    model = small_model(seed=1)
    checkpointer = RoutingCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001")
    checkpointer.save("model_final")
    (tmp_path / "config.yaml").write_text(small_config().dump())
    return tmp_path, model.eval()


def same(a, b) -> bool:
    inputs = batch((64, 64), labels=False)
    with torch.no_grad():
        x, y = a(inputs)[0], b(inputs)[0]
    return torch.equal(x["sem_seg"], y["sem_seg"]) and torch.equal(
        x["routes"].gates, y["routes"].gates
    )


@pytest.mark.parametrize("name", ["", "model_final.pth", "model_0000001.pth"])
def test_folder_or_checkpoint_gives_the_model(run, name):
    folder, model = run
    loaded = load_pretrained(folder / name, device="cpu")
    assert not loaded.training and same(loaded, model)


def test_newest_checkpoint_stands_for_a_run_and_else_what_is_left(run):
    folder, model = run
    other = small_model(seed=2)
    RoutingCheckpointer(other, str(folder)).save("model_0000009")  # goes on behind the final one
    assert same(load_pretrained(folder, device="cpu"), other.eval())
    (folder / "model_0000009.pth").unlink()
    assert checkpoint_of(folder) == folder / "model_final.pth"
    (folder / "last_checkpoint").unlink()
    (folder / "model_final.pth").rename(folder / "model_best.pth")
    assert checkpoint_of(folder) == folder / "model_best.pth"
    assert same(load_pretrained(folder, device="cpu"), model)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_config_and_overrides_can_be_given(run, tmp_path, suffix):
    folder, model = run
    path = write_weights(tmp_path / "alone" / f"m{suffix}", model.state_dict())
    with pytest.raises(CheckpointError, match=r"config.yaml does not exist; config_file says"):
        load_pretrained(path)
    loaded = load_pretrained(path, config_file=QUICK, overrides=SMALL, device="cpu")
    assert same(loaded, model)


def test_empty_folder_and_missing_file_are_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_pretrained(tmp_path)
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(CheckpointError, match=r"none.pth does not exist"):
        load_pretrained(tmp_path / "none.pth", config_file=QUICK, overrides=SMALL, device="cpu")


# What the README shows --------------------------------------------------------------------------


def test_network_without_detectron2():
    network = RoutingNetwork(RoutingSpace.grid(4), width=8).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 3, 64, 128))
    assert output.features[0].shape == (2, 8, 16, 32)
    assert output.features[3].shape == (2, 64, 2, 4)
    assert output.routes.gates.shape == (2, len(network.space.edges))
    assert len(output.routes[0]) == 1 and output.routes.open.dtype == torch.bool


def test_backbone_with_detectron2():
    from detectron2.modeling import build_backbone

    backbone = build_backbone(get_config(QUICK, SMALL))
    features = backbone(torch.rand(1, 3, 64, 64))
    assert list(features) == list(backbone.output_shape()) == ["p2", "p3", "p4", "p5"]


def test_package_is_marked_as_typed():
    from pathlib import Path

    assert (Path(dynamic_routing.__file__).parent / "py.typed").is_file()
