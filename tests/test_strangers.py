"""Files from strangers: a YAML, a pickle, a last_checkpoint, a LazyConfig. Nothing of them runs."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.engine.weight_files import CheckpointError, read_weights, write_weights
from dynamic_routing.modeling import ConfigError, get_config
from dynamic_routing.modeling.lazy import TARGETS, TargetError, instantiate, load_lazy_yaml
from dynamic_routing.routing import GateSpec, RoutingNetwork, RoutingSpace
from tests.modeling.builders import QUICK, small_model
from tests.tools.evil import Witness
from tests.weight_formats import SUFFIXES, needs_safetensors

TAGS = (
    "!!python/object/apply:os.mkdir ['{ran}']",
    "!!python/object/new:os.mkdir ['{ran}']",
    "!!python/name:os.mkdir",
    "!!python/module:antigravity",
)


def config(folder: Path, text: str, name: str = "evil.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def refused(path: Path) -> str:
    with pytest.raises(ConfigError) as info:
        get_config(path)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("where", ["file", "base", "value"])
def test_python_tags_of_a_config_do_not_run(tmp_path, tag, where):
    ran = tmp_path / "ran"
    text = f"OUTPUT_DIR: {tag.format(ran=ran)}\n"
    path = config(tmp_path, text)
    if where == "base":
        path = config(tmp_path, "_BASE_: evil.yaml\n", "leaf.yaml")
    if where == "value":  # a string that looks like a tag stays a string, or is refused
        path = config(tmp_path, f"OUTPUT_DIR: {json.dumps(tag.format(ran=ran))}\n")
        get_config(path)
    else:
        assert "could not determine a constructor" in refused(path)
    assert not ran.exists()


def test_override_with_a_tag_does_not_run(tmp_path):
    ran = tmp_path / "ran"
    get_config(None, ["OUTPUT_DIR", f"__import__('os').mkdir('{ran}')"])
    assert not ran.exists()


@pytest.mark.parametrize(
    "base", ["https://example.com/a.yaml", "detectron2://a.yaml", "file:///a.yaml", "[1]", "{a: 1}"]
)
def test_base_stays_local(tmp_path, monkeypatch, base):
    def reach(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", reach)
    assert "must name a local file" in refused(config(tmp_path, f"_BASE_: {base}\n"))


def test_missing_and_circular_bases_are_one_line(tmp_path):
    assert "does not exist" in refused(config(tmp_path, "_BASE_: none.yaml\n"))
    config(tmp_path, "_BASE_: b.yaml\n", "a.yaml")
    config(tmp_path, "_BASE_: a.yaml\n", "b.yaml")
    assert "leads back to" in refused(tmp_path / "a.yaml")


def test_bases_merge_in_order(tmp_path):
    config(tmp_path, "SOLVER: {MAX_ITER: 1, BASE_LR: 0.5}\n", "one.yaml")
    config(tmp_path, "SOLVER: {MAX_ITER: 2}\n", "two.yaml")
    cfg = get_config(config(tmp_path, "_BASE_: [one.yaml, two.yaml]\nSEED: 3\n"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SEED) == (2, 0.5, 3)


# Weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_pickles_do_not_run(tmp_path, suffix, protocol):
    path, data = tmp_path / f"evil{suffix}", {"model": {"x": Witness(tmp_path / "ran")}}
    if protocol == "torch":
        torch.save(data, path)
    else:
        path.write_bytes(pickle.dumps(data))
    with pytest.raises(CheckpointError, match="convert_weights.py IN OUT --config-file F --trust"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


@needs_safetensors
def test_pickle_under_the_name_of_safetensors_does_not_run(tmp_path):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(pickle.dumps({"model": Witness(tmp_path / "ran")}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "header", [b"{}", b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,1]}}']
)
def test_damaged_safetensors_are_one_line(tmp_path, header):
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(struct.pack("<Q", len(header) + 50) + header)
    with pytest.raises(CheckpointError) as info:
        read_weights(path)
    assert "\n" not in str(info.value)


ODD = {
    "no dict": ([torch.zeros(1)], "holds list, not a dict"),
    "no tensors": ({"model": None}, "holds NoneType"),
    "number": ({"model": {"a": 1}}, "a is no tensor but int"),
    "name": ({1: torch.zeros(1)}, "tensors need names, got 1"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "a is no dense tensor|weights_only"),
    "complex": (
        {"a": torch.zeros(1, dtype=torch.complex64)},
        "a is no dense tensor of real numbers",
    ),
    "rules": ({"model": {}, "routing": {"backbone.network": 3}}, "must hold rules by network"),
    "rule": (
        {"model": {}, "routing": {"backbone.network": {"small gate": torch.zeros(3, 3)}}},
        "must hold numbers and words",
    ),
    "lines": (
        {"model": {}, "routing": {"backbone.network": {"small gate": "a\nb"}}},
        "must hold numbers and words",
    ),
    "name of lines": ({"model": {"a\nb": torch.zeros(1)}}, r"tensors need names, got 'a\\nb'"),
    "no numbers": ({"a": torch.zeros(2, device="meta")}, "a has a shape but no numbers"),
}


@pytest.mark.parametrize(("content", "text"), ODD.values(), ids=list(ODD))
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path, content, text):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=text) as info:
        RoutingCheckpointer(torch.nn.Linear(1, 1)).load(str(tmp_path / "odd.pth"))
    assert "\n" not in str(info.value) and "odd.pth" in str(info.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 no archive"])
def test_damaged_checkpoint_is_one_line_with_the_kind_of_error(tmp_path, content):
    (tmp_path / "damaged.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read: \w+Error") as info:
        read_weights(tmp_path / "damaged.pth")
    assert "\n" not in str(info.value)


def test_compressed_checkpoint_is_refused_before_it_unpacks(tmp_path):
    torch.save({"model": {"a": torch.zeros(1 << 20)}}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 1 << 15
    with pytest.raises(CheckpointError, match="is compressed, to") as info:
        read_weights(tmp_path / "bomb.pth")
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_weights_and_rules_survive_both_formats(tmp_path, suffix):
    model = small_model(seed=1)
    rules = RoutingCheckpointer(model).routing_rules()
    path = write_weights(tmp_path / f"model{suffix}", model.state_dict(), routing=rules)
    again = small_model(seed=2)
    RoutingCheckpointer(again, strict=True).load(str(path))
    assert all(torch.equal(x, again.state_dict()[k]) for k, x in model.state_dict().items())
    other = small_model("MODEL.DYNAMIC_ROUTING.UNREACHED", "released")
    with pytest.raises(CheckpointError, match="unreached rule absent, the config says released"):
        RoutingCheckpointer(other).load(str(path))


@pytest.mark.parametrize("tag", ["../evil.pth", "/tmp/evil.pth", "https://example.com/evil.pth"])
def test_last_checkpoint_leads_nowhere_else(tmp_path, tag):
    run = tmp_path / "run"
    run.mkdir()
    torch.save({"model": Witness(tmp_path / "ran")}, tmp_path / "evil.pth")
    (run / "last_checkpoint").write_text(tag)
    checkpointer = RoutingCheckpointer(small_model(), str(run))
    with pytest.raises(CheckpointError, match="bare file name"):
        checkpointer.resume_or_load("", resume=True)
    assert not (tmp_path / "ran").exists()


def test_symbolic_link_out_of_the_folder_is_refused(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    torch.save(small_model().state_dict(), tmp_path / "other.pth")
    (run / "link.pth").symlink_to(tmp_path / "other.pth")
    (run / "last_checkpoint").write_text("link.pth")
    with pytest.raises(CheckpointError, match="outside"):
        RoutingCheckpointer(small_model(), str(run)).get_checkpoint_file()


# LazyConfig -------------------------------------------------------------------------------------

EVIL = (
    {"_target_": "os.mkdir", "path": "RAN"},
    {"_target_": "builtins.eval", "_args_": ["1"]},
    {
        "_target_": "dynamic_routing.routing.network.RoutingNetwork",
        "space": {"_target_": "os.mkdir"},
    },
    {"_target_": "dynamic_routing.files.os.mkdir", "path": "RAN"},
    {"_target_": "dynamic_routing.routing.subnetworks.read_subgraph", "name_or_path": "/etc/x"},
    {"_target_": "dynamic_routing.nonsense"},
    {"_target_": "detectron2.config.LazyConfig.load", "filename": "evil.py"},
    {"list": [1, {"deep": {"_target_": "subprocess.run"}}]},
    {"name": "os.mkdir", "call": {"_target_": "${name}"}},
)


@pytest.mark.parametrize("evil", EVIL, ids=str)
@pytest.mark.parametrize("form", ["dict", "omegaconf", "yaml"])
def test_targets_outside_the_list_are_not_called(tmp_path, evil, form):
    ran = tmp_path / "ran"
    plain = json.loads(json.dumps(evil).replace("RAN", str(ran)))
    if form == "omegaconf" or "${name}" in str(evil):
        plain = OmegaConf.create(plain)
    if form == "yaml":
        plain = load_lazy_yaml(config(tmp_path, OmegaConf.to_yaml(OmegaConf.create(plain))))
    with pytest.raises(TargetError, match="a config may not call"):
        instantiate(plain)
    assert not ran.exists()


def test_python_and_tagged_lazy_configs_are_not_run(tmp_path):
    ran = tmp_path / "ran"
    program = config(tmp_path, f"import os; os.mkdir({str(ran)!r})\n", "evil.py")
    tagged = config(tmp_path, f"a: {TAGS[0].format(ran=ran)}\n")
    for path in (program, tagged, tmp_path / "none.yaml"):
        with pytest.raises(TargetError):
            load_lazy_yaml(path)
    assert not ran.exists()


UNREADABLE = {
    "nested": b"a: " + b"[" * 2000 + b"]" * 2000,
    "binary": b"a: \xff\xfe",
    "date": b"a: 2020-01-01",
    "braces": b'a: "${"',
    "nowhere": b"_target_: ${nowhere}",
    "circle": b"a: ${b}\nb: ${a}",
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=list(UNREADABLE))
def test_lazy_yaml_that_cannot_be_resolved_is_one_line(tmp_path, content):
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(TargetError, match=r"cannot be (read|resolved)") as info:
        instantiate(load_lazy_yaml(path))
    assert "\n" not in str(info.value)


def test_network_by_lazy_config_equals_the_one_by_hand(tmp_path):
    description = L(RoutingNetwork)(
        space=L(RoutingSpace.grid)(num_layers=3),
        width=8,
        operations=["sep_conv_3x3", "identity"],
        gate=L(GateSpec)(activation="sigmoid", small=True),
        unreached="released",
    )
    network = instantiate(description)
    by_hand = RoutingNetwork(
        RoutingSpace.grid(3),
        width=8,
        operations=("sep_conv_3x3", "identity"),
        gate=GateSpec("sigmoid", small=True),
        unreached="released",
    )
    assert network.space == by_hand.space and network.description() == by_hand.description()
    assert network.state_dict().keys() == by_hand.state_dict().keys()
    LazyConfig.save(description, str(tmp_path / "network.yaml"))
    through_yaml = instantiate(load_lazy_yaml(tmp_path / "network.yaml"))
    assert through_yaml.description() == by_hand.description()


def test_caller_can_vouch_for_a_target():
    with pytest.raises(TargetError):
        instantiate({"_target_": "fractions.Fraction", "numerator": 3})
    built = instantiate(
        {"_target_": "fractions.Fraction", "numerator": 3}, allow=["fractions.Fraction"]
    )
    assert built == 3


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_allowed_target_exists(target):
    from hydra.utils import get_object

    assert callable(get_object(target))


def test_quick_config_is_still_what_detectron2_reads():
    from detectron2.config import CfgNode

    from dynamic_routing.modeling.config_files import load_yaml_chain

    assert load_yaml_chain(QUICK) == CfgNode.load_yaml_with_base(str(QUICK))
