"""Checkpoints: whole or not at all, never code, and only into the network they are of."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamic_routing.engine.checkpoint import (
    CheckpointError,
    RoutingCheckpointer,
    atomic_file,
    plain,
)
from tests.modeling.builders import batch, small_model

SPACE = "MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS"
WIDTH = "MODEL.DYNAMIC_ROUTING.WIDTH"
NAMES = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
FILES = ["checkpoints.json", "last_checkpoint", "model.pth"]


class Witness:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


def saved(folder, *overrides, seed=1, name="model"):
    """A model and its checkpoint."""
    model = small_model(*overrides, seed=seed)
    RoutingCheckpointer(model, str(folder)).save(name)
    return model, folder / f"{name}.pth"


def load(path, *overrides, seed=2):
    """A fresh model with these weights."""
    model = small_model(*overrides, seed=seed)
    RoutingCheckpointer(model, str(path.parent)).load(str(path))
    return model


def refused(path, *overrides):
    """The one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as info:
        load(path, *overrides)
    assert "\n" not in str(info.value)
    return str(info.value)


def equal(a, b):
    return {n: torch.equal(x, b[n]) for n, x in a.items()}


def test_weights_survive_a_round_trip(tmp_path):
    model, path = saved(tmp_path)
    assert all(equal(model.state_dict(), load(path).state_dict()).values())
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES


def test_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    model, path = saved(tmp_path)
    before = path.read_bytes()

    def fail(data, file, **_options):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        RoutingCheckpointer(model, str(tmp_path)).save("model")
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="no space left"):
        RoutingCheckpointer(model, str(tmp_path)).save("newer")
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    assert sorted(p.name for p in tmp_path.iterdir()) == FILES


def test_file_appears_only_when_it_is_complete(tmp_path):
    with atomic_file(tmp_path / "file") as file:
        file.write(b"whole")
        assert not (tmp_path / "file").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_checkpoints_hold_plain_data_only(tmp_path):
    model = small_model()
    RoutingCheckpointer(model, str(tmp_path)).save(
        "model", metric=np.float64(0.5), row=[np.arange(3), (np.int64(1), "x")], nested={"a": None}
    )
    loaded = torch.load(tmp_path / "model.pth", weights_only=True)
    assert loaded["metric"] == 0.5 and type(loaded["metric"]) is float
    assert torch.equal(loaded["row"][0], torch.arange(3)) and loaded["row"][1] == (1, "x")
    assert plain({np.int32(1): (np.bool_(True),)}) == {1: (True,)}


@pytest.mark.parametrize("pickled_by", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, pickled_by):
    data = {"model": small_model().state_dict(), "extra": Witness(tmp_path / "ran")}
    path = tmp_path / "evil.pth"
    if pickled_by == "torch":
        torch.save(data, path)
    else:
        path.write_bytes(pickle.dumps(data))
    assert str(path) in refused(path)
    assert not (tmp_path / "ran").exists()


def test_pkl_weights_are_refused_unread(tmp_path):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(Witness(tmp_path / "ran")))
    assert "only .pth" in refused(path) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_damaged_file_is_one_line(tmp_path, content):
    _, path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    assert f"checkpoint {path} cannot be read" in refused(path)


def test_checkpoint_that_was_cut_short_is_not_taken_for_a_pickle_to_trust(tmp_path):
    _, path = saved(tmp_path)
    for size in (5000, 0):
        path.write_bytes(path.read_bytes()[:size])
        assert "trust" not in refused(path)


def test_file_that_holds_no_dict_is_one_line(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    assert "holds list, not a dict" in refused(tmp_path / "list.pth")


def test_missing_file_is_one_line(tmp_path):
    message = refused(tmp_path / "none.pth")
    assert message == f"checkpoint {tmp_path / 'none.pth'} does not exist; check MODEL.WEIGHTS"


@pytest.mark.parametrize("tag", ["../model.pth", "/etc/model.pth", "a/model.pth", "", " "])
def test_last_checkpoint_names_a_file_of_the_folder_only(tmp_path, tag):
    model, _ = saved(tmp_path)
    (tmp_path / "last_checkpoint").write_text(tag)
    with pytest.raises(CheckpointError, match="must hold a bare file name"):
        RoutingCheckpointer(model, str(tmp_path)).get_checkpoint_file()


def test_last_checkpoint_is_found_where_there_is_one(tmp_path):
    checkpointer = RoutingCheckpointer(small_model(), str(tmp_path))
    assert not checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file() == ""
    checkpointer.save("model_0000001")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")


def test_checkpoint_of_another_space_is_refused_with_names(tmp_path):
    _, deeper = saved(tmp_path, SPACE, "4", name="deeper")
    message = refused(deeper)
    assert "left over: backbone.network.cells.3_0." in message and message.endswith("...")
    _, path = saved(tmp_path)
    assert " missing: backbone.network.cells.2_0." in refused(path, SPACE, "4")


def test_checkpoint_of_another_width_is_refused_with_shapes(tmp_path):
    _, path = saved(tmp_path, WIDTH, "8")
    message = refused(path)
    assert "of another shape: backbone.network.stem.third.1.conv.weight (8, 64, 1, 1)" in message
    assert "for (4, 64, 1, 1)" in message


def test_another_number_of_classes_starts_the_predictor_anew(tmp_path):
    model, path = saved(tmp_path, NAMES, "7")
    fresh = small_model(seed=2)
    loaded = load(path)
    before, after = model.state_dict(), loaded.state_dict()
    for name, tensor in after.items():
        source = fresh.state_dict() if "predictor" in name else before
        assert torch.equal(tensor, source[name]), name


def test_bare_state_dict_is_read_too(tmp_path):
    model, _ = saved(tmp_path)
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    loaded = load(tmp_path / "bare.pth").state_dict()
    assert all(equal(model.state_dict(), loaded).values())


def test_loaded_model_predicts_as_the_saved_one(tmp_path):
    model, path = saved(tmp_path)
    inputs = batch((64, 64), labels=False)
    with torch.no_grad():
        a, b = model.eval()(inputs)[0], load(path).eval()(inputs)[0]
    assert torch.equal(a["sem_seg"], b["sem_seg"])
    assert torch.equal(a["routes"].gates, b["routes"].gates)


def test_nothing_is_written_without_a_folder_or_by_other_processes(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        RoutingCheckpointer(small_model(), "").save("model")
        RoutingCheckpointer(small_model(), str(tmp_path), save_to_disk=False).save("model")
    assert list(tmp_path.iterdir()) == [] and not Path("model.pth").exists()


def test_weights_without_gates_start_a_gated_network(tmp_path):
    model, path = saved(tmp_path, "MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "fixed")
    state = load(path).state_dict()
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith(".gate.strength")}
    assert all(torch.equal(state[name], value) for name, value in weights.items())
    assert any(".gate." in name for name in state.keys() - weights.keys())
