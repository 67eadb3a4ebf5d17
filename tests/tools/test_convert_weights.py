"""tools/convert_weights.py, and released files as MODEL.WEIGHTS."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import convert_weights
import pytest
import torch

from dynamic_routing.engine.checkpoint import CheckpointError, RoutingCheckpointer
from tests.modeling.builders import CLASSES, QUICK, SMALL, small_model
from tests.modeling.released import random_state, shapes_of
from tests.tools.evil import Witness
from tests.weight_formats import SUFFIXES

NAMES = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
FIXED = ("MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "fixed")
RELEASED = ("MODEL.DYNAMIC_ROUTING.UNREACHED", "released")


def released(folder: Path, *, wrap: bool = True, change=None, **options) -> Path:
    """A file of the released code for the network of ``small_model``."""
    state = random_state(shapes_of(3, width=4, classes=CLASSES, **options))
    if change:
        change(state)
    path = folder / "released.pth"
    torch.save({"model": state, "iteration": 5} if wrap else state, path)
    return path


def convert(*arguments, overrides=()) -> int:
    opts = [*SMALL, *overrides]
    return convert_weights.main(
        [*map(str, arguments), "--config-file", str(QUICK), *map(str, opts)]
    )


def load(path, *overrides, strict=False):
    model = small_model(*overrides, seed=3)
    RoutingCheckpointer(model, str(path.parent), strict=strict).load(str(path))
    return model


def state_of(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_convert_and_reverse_is_the_identity(tmp_path, capsys, suffix):
    source = released(tmp_path)
    ours, back = tmp_path / f"ours{suffix}", tmp_path / "back.pth"
    assert convert(source, ours) == 0
    text = capsys.readouterr().out
    assert "translated to our names" in text and "UNREACHED released" in text
    assert convert(ours, back, "--reverse") == 0
    before, after = state_of(source), state_of(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[k]) and x.dtype == after[k].dtype for k, x in before.items())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_converted_file_and_the_released_one_load_alike(tmp_path, caplog, suffix):
    source, ours = released(tmp_path), tmp_path / f"ours{suffix}"
    assert convert(source, ours, overrides=RELEASED) == 0
    with caplog.at_level(logging.INFO, "fvcore"):
        direct = load(source, *RELEASED, strict=True)
    assert "weights of the released Dynamic Routing code" in caplog.text
    assert "UNREACHED" not in caplog.text
    through = load(ours, *RELEASED, strict=True).state_dict()
    assert all(torch.equal(x, through[k]) for k, x in direct.state_dict().items())


def test_wrong_rule_for_unreached_nodes_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "fvcore"):
        load(released(tmp_path))
    assert "need MODEL.DYNAMIC_ROUTING.UNREACHED released, the config says absent" in caplog.text


def test_file_converted_under_the_wrong_rule_does_not_claim_it(tmp_path):
    source, ours = released(tmp_path), tmp_path / "ours.pth"
    assert convert(source, ours) == 0
    through = load(ours, *RELEASED, strict=True).state_dict()
    direct = load(source, *RELEASED, strict=True).state_dict()
    assert all(torch.equal(x, through[k]) for k, x in direct.items())
    assert convert(source, ours, overrides=RELEASED) == 0
    with pytest.raises(CheckpointError, match="unreached rule released, the config says absent"):
        load(ours)


@pytest.mark.parametrize("strengths", [False, True])
def test_fixed_network_needs_no_gate_in_the_file(tmp_path, strengths):
    source = released(tmp_path, gate=False, strengths=strengths)
    model = load(source, *FIXED, strict=True)
    strengths = [x for n, x in model.state_dict().items() if n.endswith("strength")]
    assert strengths and all(bool((x == 1).all()) for x in strengths)
    assert convert(source, tmp_path / "ours.pth", overrides=FIXED) == 0
    load(tmp_path / "ours.pth", *FIXED, strict=True)


def test_fixed_weights_start_a_gated_network(tmp_path):
    load(released(tmp_path, gate=False))
    with pytest.raises(CheckpointError, match="missing"):
        load(released(tmp_path, gate=False), strict=True)


def test_bare_prefixed_and_half_files_are_read(tmp_path):
    wanted = load(released(tmp_path)).state_dict()

    def mangle(state):
        for name in list(state):
            tensor = state.pop(name)
            state[f"module.{name}"] = tensor.half() if tensor.is_floating_point() else tensor

    source = released(tmp_path, wrap=False, change=mangle)
    assert convert(source, tmp_path / "ours.pth") == 0
    for path in (source, tmp_path / "ours.pth"):
        for name, tensor in load(path, strict=True).state_dict().items():
            assert tensor.dtype == wanted[name].dtype
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=1e-3)


def test_classifier_of_other_classes_is_reported_and_starts_anew(tmp_path, capsys, caplog):
    source = released(tmp_path)
    assert convert(source, tmp_path / "ours.pth", overrides=(NAMES, 7)) == 0
    assert "predictor.weight (5, 4, 3, 3) for (7, 4, 3, 3) differs and starts anew" in (
        capsys.readouterr().out
    )
    with caplog.at_level(logging.WARNING, "fvcore"):
        model = load(source, NAMES, "7")
    assert "predictor.weight starts anew: (5, 4, 3, 3) there, (7, 4, 3, 3) here" in caplog.text
    fresh = small_model(NAMES, "7", seed=3).state_dict()
    key = "sem_seg_head.decoder.predictor.weight"
    assert torch.equal(model.state_dict()[key], fresh[key])


def drop(state):
    for name in [n for n in state if ".2." in n and "res_" in n and "all_cell" in n]:
        del state[name]
    for name in [n for n in state if "all_cell_list.1.0.cell_ops" in n]:
        del state[name]


def add(state):
    state["backbone.all_cell_list.9.0.res_down.1.weight"] = torch.zeros(8, 4, 1, 1)


def reshape(state):
    state["backbone.stem.stem_3.1.weight"] = torch.zeros(6, 64, 1, 1)


def drop_one_gate(state):
    del state["backbone.all_cell_list.1.1.gate_conv_beta.2.bias"]


def drop_first(state):
    del state["backbone.stem.stem_1.weight"]


BROKEN = {
    "first": (drop_first, "; 1 missing: backbone.network.stem.first.conv.weight"),
    "missing": (drop, "missing: backbone.network.cells.1_0.operations.0.0.conv.weight"),
    "left over": (add, "left over: backbone.network.cells.9_0.transitions.down.project"),
    "shape": (reshape, "of another shape: backbone.network.stem.third.1.conv.weight"),
    "one gate": (drop_one_gate, "1 missing: backbone.network.cells.1_1.gate.predict.bias"),
}


@pytest.mark.parametrize(("change", "text"), BROKEN.values(), ids=list(BROKEN))
def test_backbone_tensors_are_all_accounted_for(tmp_path, capsys, change, text):
    source = released(tmp_path, change=change)
    assert convert(source, tmp_path / "ours.pth") == 2
    assert text in capsys.readouterr().err and not (tmp_path / "ours.pth").exists()
    with pytest.raises(CheckpointError, match=text):
        load(source)


def test_errors_list_the_first_ten(tmp_path, capsys):
    assert convert(released(tmp_path, change=drop), tmp_path / "ours.pth") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("...") and line.count("backbone.network.") == 10


def test_pickle_is_refused_with_the_way_and_converted_knowingly(tmp_path, capsys):
    state = random_state(shapes_of(3, width=4, classes=CLASSES))
    path, ran = tmp_path / "evil.pkl", tmp_path / "ran"
    torch.save({"model": state, "extra": Witness(ran)}, path)
    assert convert(path, tmp_path / "ours.pth") == 2
    assert "tools/convert_weights.py IN OUT --config-file F --trust" in capsys.readouterr().err
    assert not ran.exists()
    assert convert(path, tmp_path / "ours.pth", "--trust") == 0
    assert ran.exists()
    load(tmp_path / "ours.pth", strict=True)


def test_plain_pickle_of_arrays_is_converted_knowingly(tmp_path, capsys):
    wanted = small_model(seed=1).state_dict()
    path = tmp_path / "zoo.pkl"  # as in Detectron2's model zoo
    path.write_bytes(pickle.dumps({"model": {k: x.numpy() for k, x in wanted.items()}}))
    assert convert(path, tmp_path / "ours.pth", "--trust") == 0
    found = load(tmp_path / "ours.pth", strict=True).state_dict()
    assert all(torch.equal(x, found[k]) for k, x in wanted.items())


def test_files_of_old_torch_are_converted_knowingly(tmp_path):
    wanted = small_model(seed=1).state_dict()
    path = tmp_path / "old.pkl"
    torch.save(wanted, path, _use_new_zipfile_serialization=False)
    assert convert(path, tmp_path / "ours.pth", "--trust") == 0
    assert all(torch.equal(x, wanted[k]) for k, x in state_of(tmp_path / "ours.pth").items())


def test_unknown_released_names_are_a_checkpoint_error(tmp_path):
    source = released(tmp_path, change=lambda state: state.update(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match="1 tensors have a name that the released code"):
        load(source)


def test_two_tensors_for_one_place_are_refused(tmp_path, capsys):
    name = "backbone.stem.stem_1.conv.weight"  # half ours: it would quietly take the other's place

    def double(state):
        state[name] = torch.zeros_like(state["backbone.stem.stem_1.weight"])

    assert convert(released(tmp_path, change=double), tmp_path / "ours.pth") == 2
    assert f"{name} and another tensor both are our" in capsys.readouterr().err


def test_output_of_another_kind_is_refused(tmp_path, capsys):
    assert convert(released(tmp_path), tmp_path / "ours.bin") == 2
    assert "written as .pth or .safetensors" in capsys.readouterr().err


def test_plain_pickle_needs_trust_too(tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"model": Witness(tmp_path / "ran")}))
    with pytest.raises(CheckpointError, match="--trust"):
        load(path)
    assert not (tmp_path / "ran").exists()
