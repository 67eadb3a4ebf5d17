"""Configs: one clear line for every mistake, no code from YAML, and round trips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamic_routing import add_dynamic_routing_config
from dynamic_routing.modeling import ConfigError, get_config
from tests.modeling.builders import CONFIGS, QUICK

KEY = "MODEL.DYNAMIC_ROUTING"


def refused(config_file=None, overrides=()):
    """The message with which a config is refused: one line."""
    with pytest.raises(ConfigError) as info:
        get_config(config_file, overrides)
    message = str(info.value)
    assert "\n" not in message and message == message.strip()
    return message


def yaml_file(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(f"VERSION: 2\n{text}\n")
    return file


def test_keys_join_detectron2s_own_config():
    cfg = get_cfg()
    add_dynamic_routing_config(cfg)
    assert cfg == get_config(None, ["MODEL.DEVICE", cfg.MODEL.DEVICE])
    assert cfg.MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS == 16
    assert cfg.MODEL.DYNAMIC_ROUTING.OPERATIONS == ["sep_conv_3x3_x2", "identity"]


def test_misspelt_key_in_yaml_names_the_nearest_one(tmp_path):
    file = yaml_file(tmp_path, "MODEL:\n  DYNAMIC_ROUTING:\n    GATE:\n      ACTIVATOIN: sigmoid")
    message = refused(file)
    assert f"{KEY}.GATE.ACTIVATOIN" in message
    assert f"did you mean {KEY}.GATE.ACTIVATION?" in message


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        (f"{KEY}.WIDHT", f"{KEY}.WIDTH"),
        ("SOLVER.BASE_LRR", "SOLVER.BASE_LR"),
        ("MODLE.DEVICE", "MODEL.DEVICE"),
    ],
)
def test_misspelt_key_on_the_command_line_names_the_nearest_one(wrong, right):
    message = refused(None, [wrong, "1"])
    assert wrong in message and f"did you mean {right}?" in message


def test_key_like_nothing_known_gets_no_suggestion():
    message = refused(None, ["QQQQQQQQQQ", "1"])
    assert "QQQQQQQQQQ" in message and "did you mean" not in message


def test_value_of_the_wrong_type_is_refused_with_its_key(tmp_path):
    for message in (
        refused(None, [f"{KEY}.WIDTH", "wide"]),
        refused(yaml_file(tmp_path, "MODEL:\n  DYNAMIC_ROUTING:\n    WIDTH: wide")),
    ):
        assert f"{KEY}.WIDTH" in message and "wide" in message


def test_missing_file_is_named(tmp_path):
    assert str(tmp_path / "none.yaml") in refused(tmp_path / "none.yaml")


def test_missing_base_is_named(tmp_path):
    assert "none.yaml" in refused(yaml_file(tmp_path, "_BASE_: none.yaml"))


@pytest.mark.parametrize("text", ["MODEL: [", "- 1", "SOLVER: 3", "a: b: c"])
def test_broken_yaml_is_refused_in_one_line(tmp_path, text):
    refused(yaml_file(tmp_path, text))


@pytest.mark.parametrize("in_base", [False, True])
def test_python_tags_run_nothing(tmp_path, in_base):
    witness = tmp_path / "witness"
    file = yaml_file(tmp_path, f"SEED: !!python/object/apply:os.mkdir ['{witness}']")
    if in_base:
        file = file.rename(tmp_path / "base.yaml")
        file = yaml_file(tmp_path, "_BASE_: base.yaml")
    message = refused(file)
    assert not witness.exists()
    assert "python/object/apply:os.mkdir" in message and "yaml" in message


def test_code_in_an_override_stays_text(tmp_path):
    witness = tmp_path / "witness"
    code = f"__import__('os').mkdir('{witness}')"
    cfg = get_config(None, ["OUTPUT_DIR", code])
    assert cfg.OUTPUT_DIR == code and not witness.exists()


@pytest.mark.parametrize("overrides", [["SEED"], ["SEED", "1", "OUTPUT_DIR"]])
def test_odd_number_of_overrides_is_refused(overrides):
    assert "pairs of KEY VALUE" in refused(None, overrides)


def test_override_beats_the_file():
    assert get_config(QUICK).SEED == 1
    assert get_config(QUICK, ["SEED", "7"]).SEED == 7


@pytest.mark.parametrize(("has_gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_device_auto_takes_a_gpu_where_there_is_one(monkeypatch, has_gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert get_config(QUICK).MODEL.DEVICE == device
    assert get_config(QUICK, ["MODEL.DEVICE", "meta"]).MODEL.DEVICE == "meta"


def test_reading_a_config_twice_gives_the_same_and_shares_nothing():
    first = get_config(QUICK)
    first.MODEL.DYNAMIC_ROUTING.OPERATIONS.append("conv_3x3")
    first.DATASETS.CUSTOM.append({})
    first.INPUT.SEM_SEG_CROP[0] = 1
    second = get_config(QUICK)
    assert second == get_config(QUICK) and second != first
    assert second.MODEL.DYNAMIC_ROUTING.OPERATIONS == ["sep_conv_3x3_x2", "identity"]


def test_dumping_and_reading_again_is_the_identity(tmp_path):
    custom = "[{'name': 'mine_train', 'type': 'sem_seg', 'classes': ['a', 'b']}]"
    cfg = get_config(
        CONFIGS / "Cityscapes-SemanticSegmentation" / "dr_c_l16_186k.yaml",
        ["DATASETS.CUSTOM", custom, "SOLVER.BASE_LR", "1e-5"],
    )
    file = tmp_path / "dump.yaml"
    file.write_text(cfg.dump())
    again = get_config(file)
    for one in (again, cfg):  # Detectron2's tuples of tuples come back as tuples of lists
        one.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = ()
    assert again == cfg
    assert cfg.DATASETS.CUSTOM[0]["classes"] == ["a", "b"] and cfg.SOLVER.BASE_LR == 1e-5


def test_whole_numbers_pass_for_floats(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("SOLVER: {BASE_LR: 1}\n")
    cfg = get_config(file, ["MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA", "2"])
    assert (cfg.SOLVER.BASE_LR, cfg.MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA) == (1.0, 2.0)
    assert type(cfg.SOLVER.BASE_LR) is float


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- 1\n", "must hold config keys, got list"),
        ("", "must hold config keys, got NoneType"),
        ("SOLVER: 3\n", "SOLVER is a group of keys, got 3"),
        ("SOLVER: {CLIP_GRADIENTS: x}\n", "SOLVER.CLIP_GRADIENTS is a group of keys"),
    ],
)
def test_files_without_groups_of_keys_are_explained(tmp_path, content, said):
    file = tmp_path / "c.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        get_config(file)


POSITIVE = st.floats(0, allow_infinity=False)
SHARES = st.floats(0, 1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
VALUES = {
    "OUTPUT_DIR": TEXTS.filter(bool),  # an empty one is refused
    "MODEL.WEIGHTS": TEXTS,
    "DATASETS.TRAIN": st.lists(TEXTS, max_size=3).map(tuple),
    "SEED": st.integers(-(2**31), 2**31),
    "SOLVER.BASE_LR": POSITIVE,
    "SOLVER.WEIGHT_DECAY": POSITIVE,
    "SOLVER.STEPS": st.lists(st.integers(0, 10**7), max_size=4).map(tuple),
    "SOLVER.ACCUMULATION_STEPS": st.integers(1, 10**6),
    "SOLVER.AMP.ENABLED": st.booleans(),
    f"{KEY}.BUDGET.MU": SHARES,
    f"{KEY}.BUDGET.LAMBDA": POSITIVE,
    f"{KEY}.GATE.ACTIVATION": st.sampled_from(["max_tanh", "sigmoid", "softmax", "fixed"]),
    f"{KEY}.OPERATIONS": st.lists(st.sampled_from(["identity", "sep_conv_3x3"]), max_size=3),
    f"{KEY}.DIVDR.MARGIN": POSITIVE,
    "MODEL.EMA.DECAY": st.floats(0, 1, exclude_max=True),
    "INPUT.SCALE_RANGE": st.lists(st.floats(0.1, 10), min_size=2, max_size=2),
}


def put(cfg, key, value):
    *groups, name = key.split(".")
    for group in groups:
        cfg = cfg[group]
    cfg[name] = value


@settings(max_examples=25)
@given(changes=st.fixed_dictionaries({}, optional=VALUES))
def test_dumped_config_comes_back_as_it_was(tmp_path_factory, changes):
    cfg = get_config(None, ["MODEL.DEVICE", "cpu"])
    for key, value in changes.items():
        put(cfg, key, value)
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(cfg.dump(), encoding="utf-8")
    assert get_config(file) == cfg


@pytest.mark.parametrize("text", ["2026", "1e5", "[1]", "None", "'a'", ""])
def test_text_that_looks_like_python_stays_a_text(tmp_path, text):
    cfg = get_config(None, ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.WEIGHTS = text
    file = tmp_path / "dumped.yaml"
    file.write_text(cfg.dump(), encoding="utf-8")
    assert get_config(file).MODEL.WEIGHTS == text
