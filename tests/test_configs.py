"""Every YAML in configs/ is read, complete, short, and builds the model that it promises."""

from __future__ import annotations

import re

import pytest
import torch
import yaml
from detectron2.modeling import build_model

from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.modeling import ImageClassifier, get_config
from dynamic_routing.modeling.cost import model_cost
from dynamic_routing.routing import RoutingNetwork, RoutingSpace
from dynamic_routing.routing.gates import FixedGate
from tests.modeling.builders import CONFIGS, weightless, yaml_files

MAX_LEAF_LINES = 25
ROOT = CONFIGS / "Base-DynamicRouting.yaml"
LEAVES = yaml_files(leaves=True)
DETECTORS = [f for f in LEAVES if re.search("rcnn|retinanet|panoptic", f.name)]
CLASSIFIERS = [f for f in LEAVES if re.search("ImageNet-Class|quick/.*_imagenet", str(f))]
SEGMENTORS = [file for file in LEAVES if file not in DETECTORS + CLASSIFIERS]
DIVERSIFIED = [file for file in LEAVES if file.name.startswith("divdr_")]


def name_of(file):
    return str(file.relative_to(CONFIGS)).removesuffix(".yaml")


def base_of(file):
    base = yaml.safe_load(file.read_text()).get("_BASE_")
    return None if base is None else (file.parent / base).resolve()


def bases_of(file):
    base = base_of(file)
    return [] if base is None else [base, *bases_of(base)]


def build(file, *overrides):
    """The model of a config, without memory."""
    cfg = get_config(file, ["MODEL.DEVICE", "meta", *overrides])
    with weightless():
        return build_model(cfg)


def small_keys(cfg):
    """What the parts of a config's model are made of."""
    node = cfg.MODEL.DYNAMIC_ROUTING
    return node.SPACE.NUM_LAYERS, node.GATE.ACTIVATION, node.GATE.SMALL, tuple(node.OPERATIONS)


def number_of_losses(cfg):
    """How many losses on routes a config asks for."""
    node = cfg.MODEL.DYNAMIC_ROUTING
    return (node.BUDGET.LAMBDA > 0 or node.BUDGET.TARGET_GMACS > 0) + (node.DIVDR.NUM_CLUSTERS > 0)


def test_there_is_a_config_for_every_published_segmentation_network():
    assert len(LEAVES) >= 20 and len(set(yaml_files())) > len(LEAVES)


@pytest.mark.parametrize("file", LEAVES, ids=name_of)
def test_leaf_is_short_and_says_what_it_is(file):
    lines = file.read_text().splitlines()
    assert len(lines) <= MAX_LEAF_LINES
    assert lines[0].startswith("# ")
    assert re.fullmatch(r"[a-z0-9_]+\.yaml", file.name)


@pytest.mark.parametrize("file", yaml_files(), ids=name_of)
def test_file_is_plain_yaml_at_the_end_of_a_chain(file):
    assert "!!" not in file.read_text()
    assert file == ROOT or bases_of(file)[-1] == ROOT


@pytest.mark.parametrize("file", yaml_files(), ids=name_of)
def test_file_holds_no_unknown_key(file):
    get_config(file)  # which refuses them


@pytest.mark.parametrize("file", SEGMENTORS, ids=name_of)
def test_segmentation_leaf_builds_its_model(file):
    cfg = get_config(file)
    layers, activation, small, operations = small_keys(cfg)
    # Three layers of width 4 hold every kind of module; the full size is built below. A named
    # sub-graph keeps its layers.
    model = build(
        file,
        *("MODEL.DYNAMIC_ROUTING.WIDTH", "4"),
        *("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "3"),
    )
    network = model.backbone.network
    assert isinstance(network, RoutingNetwork)
    assert layers in (8, 16, 33)
    for cell in network.cells.values():
        assert len(cell.operations) == len(operations)
        assert isinstance(cell.gate, FixedGate) == (activation == "fixed")
        assert activation == "fixed" or cell.gate.small == small
    head = model.sem_seg_head
    assert head.decoder.predictor.out_channels == {"C": 19, "V": 21, "q": 19}[name_of(file)[0]]
    assert (head.decoder.context is not None) == ("psp" in file.name)
    assert len(model.routing_losses) == number_of_losses(cfg)


@pytest.mark.parametrize("file", CLASSIFIERS, ids=name_of)
def test_classification_leaf_builds_its_model(file):
    cfg = get_config(file)
    layers, activation, _, _ = small_keys(cfg)
    model = build(
        file,
        *("MODEL.DYNAMIC_ROUTING.WIDTH", "4"),
        *("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "4"),
    )
    assert isinstance(model, ImageClassifier) and layers in (8, 16, 17, 33)
    assert model.classifier.linear.out_features == (6 if "quick" in str(file) else 1000)
    assert (activation == "fixed") == file.name.startswith("fix")
    assert cfg.TEST.BEST_METRIC == "classification/top1"


def test_pretraining_writes_where_the_recipes_look():
    written = {f"{get_config(f).OUTPUT_DIR}/model_final.pth" for f in CLASSIFIERS}
    wanted = {get_config(file).MODEL.WEIGHTS for file in SEGMENTORS} - {""}
    assert wanted and wanted <= written


@pytest.mark.parametrize("file", DETECTORS, ids=name_of)
def test_detection_leaf_builds_its_model(file):
    cfg = get_config(file)
    model = build(
        file,
        *("MODEL.DYNAMIC_ROUTING.WIDTH", "4"),
        *("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "4"),
    )
    shapes = model.backbone.output_shape()
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32, 64]
    assert {shape.channels for shape in shapes.values()} == {cfg.MODEL.FPN.OUT_CHANNELS}
    if file.name.startswith("r50"):
        assert type(model).__name__ == "GeneralizedRCNN" and not hasattr(model, "routing_losses")
        return
    node = cfg.MODEL.DYNAMIC_ROUTING
    assert node.SPACE.NUM_LAYERS in ((6, 8) if file.parent.name == "quick" else (17,))
    assert node.SPACE.NUM_OUTPUT_SCALES == 5
    assert isinstance(model.backbone.network, RoutingNetwork)
    assert len(model.routing_losses) == number_of_losses(cfg)
    assert "panoptic" in file.name or model.__class__.__name__.endswith(("RCNN", "RetinaNet"))
    assert cfg.MODEL.MASK_ON == bool(re.search("mask|panoptic", file.name))


def test_detection_has_raw_a_b_c_and_the_baseline_with_both_schedules():
    for folder, head in (("COCO-Detection", "faster"), ("COCO-InstanceSegmentation", "mask")):
        for schedule, iterations in (("1x", 90000), ("3x", 270000)):
            for kind, budget in (("raw", (0, 0)), ("a", (0.8, 0.1)), ("b", (0.5, 0.1))):
                name = f"dr_{kind}_{head}_rcnn_l17_{schedule}.yaml"
                cfg = get_config(CONFIGS / folder / name)
                node = cfg.MODEL.DYNAMIC_ROUTING.BUDGET
                assert (node.LAMBDA, node.MU) == budget and cfg.SOLVER.MAX_ITER == iterations
            baseline = get_config(CONFIGS / folder / f"r50_fpn_{head}_rcnn_{schedule}.yaml")
            ours = get_config(CONFIGS / folder / f"dr_raw_{head}_rcnn_l17_{schedule}.yaml")
            for group in ("SOLVER", "INPUT", "DATASETS", "TEST"):
                assert baseline[group] == ours[group], group


@pytest.mark.parametrize("file", DIVERSIFIED, ids=name_of)
def test_divdr_leaf_has_its_loss_budget_and_schedule(file):
    cfg = get_config(file)
    node, iterations = cfg.MODEL.DYNAMIC_ROUTING, cfg.SOLVER.MAX_ITER
    raw, quick = file.name.startswith("divdr_raw"), file.parent.name == "quick"
    assert (node.BUDGET.LAMBDA, node.BUDGET.MU) == ((0, 0) if raw else (0.8, 0.1))
    assert node.GATE.SMALL == (not raw)
    clusters = 3 if quick else int(re.search("_k([234])_", file.name).group(1))
    assert node.DIVDR.START_ITER == iterations / 4  # the warm-up that the head comments name
    if quick:
        assert (iterations - node.DIVDR.START_ITER) / node.DIVDR.PERIOD >= 9
    else:
        assert node.DIVDR.PERIOD == 50
    (loss,) = (x for x in build(file).modules() if isinstance(x, DivDRLoss))
    dim = RoutingSpace.grid(
        node.SPACE.NUM_LAYERS, num_output_scales=node.SPACE.NUM_OUTPUT_SCALES or None
    ).activation_dim
    assert loss.centres.shape == (clusters, dim)
    assert quick or dim == (183 if node.SPACE.NUM_LAYERS == 16 else 198)
    assert (loss.weight, loss.margin, loss.norm_power) == (0.3, 1.0, 1)


def test_divdr_has_a_and_raw_with_2_3_and_4_clusters_for_every_task():
    found = {name_of(file) for file in DIVERSIFIED if file.parent.name != "quick"}
    tasks = {
        "Cityscapes-SemanticSegmentation": ("l16_180k", 180000),
        "COCO-Detection": ("faster_rcnn_l17_1x", 90000),
        "COCO-InstanceSegmentation": ("mask_rcnn_l17_1x", 90000),
    }
    for folder, (rest, iterations) in tasks.items():
        for kind in ("a", "raw"):
            for clusters in (2, 3, 4):
                name = f"{folder}/divdr_{kind}_k{clusters}_{rest}"
                assert get_config(CONFIGS / f"{name}.yaml").SOLVER.MAX_ITER == iterations
                found.remove(name)
    assert not found


@pytest.mark.parametrize("file", DIVERSIFIED, ids=name_of)
def test_divdr_leaf_differs_from_dynamic_routing_in_its_clusters_alone(file):
    """A comparison of both is one of the method (but for DivDR's 180k iterations)."""
    name = re.sub(r"_k[234]", "", file.name).replace("180k", "186k").replace("divdr_", "dr_")
    name = name.replace("dr_a_", "dr_c_") if file.parent.name == "quick" else name
    plain, ours = get_config(file.parent / name), get_config(file)
    node = ours.MODEL.DYNAMIC_ROUTING
    node.DIVDR = plain.MODEL.DYNAMIC_ROUTING.DIVDR
    if file.parent.name == "quick":
        node.BUDGET = plain.MODEL.DYNAMIC_ROUTING.BUDGET
    ours.SOLVER.MAX_ITER = plain.SOLVER.MAX_ITER
    assert ours == plain


@pytest.mark.slow
@pytest.mark.parametrize("file", SEGMENTORS, ids=name_of)
def test_leaf_builds_at_full_size(file):
    cfg = get_config(file)
    model = build(file)
    node = cfg.MODEL.DYNAMIC_ROUTING.SPACE
    grid, space = RoutingSpace.grid(node.NUM_LAYERS), model.backbone.network.space
    assert set(space.edges) <= set(grid.edges)
    assert space == grid or node.get("SUBGRAPH")
    assert model_cost(model, convention="macs").open_cost(512, 1024) > 0


SIXTEEN = "Cityscapes-SemanticSegmentation/"
SIZES = {
    "dr_raw_l16_186k": 17.785,
    "dr_c_l16_186k": 17.785,
    "fix_l16_186k": 15.262,
    "dr_raw_l33_186k": 38.872,
    "dr_raw_l16_sepconv1_186k": 12.645,
    "dr_raw_l16_sepconv3_186k": 22.925,
    "dr_raw_l16_mbconv_186k": 48.147,
}


@pytest.mark.parametrize(("name", "millions"), SIZES.items(), ids=list(SIZES))
def test_model_has_the_published_number_of_parameters(name, millions):
    model = build(CONFIGS / SIXTEEN / f"{name}.yaml")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=5.1e-4)


@pytest.mark.parametrize(
    ("name", "weight", "mu", "small"),
    [("dr_a", 0.8, 0.1, True), ("dr_b", 0.5, 0.1, True), ("dr_c", 0.5, 0.2, True)],
)
def test_budgets_are_those_of_table_4(name, weight, mu, small):
    cfg = get_config(CONFIGS / SIXTEEN / f"{name}_l16_186k.yaml")
    node = cfg.MODEL.DYNAMIC_ROUTING
    assert (node.BUDGET.LAMBDA, node.BUDGET.MU, node.GATE.SMALL) == (weight, mu, small)
    assert (node.BUDGET.START, node.BUDGET.RAMP) == (0.4, 0.02)


def test_recipe_is_the_published_one():
    solver = get_config(CONFIGS / SIXTEEN / "dr_raw_l16_186k.yaml").SOLVER
    assert (solver.BASE_LR, solver.IMS_PER_BATCH, solver.MAX_ITER) == (0.05, 8, 186000)
    assert (solver.MOMENTUM, solver.WEIGHT_DECAY, solver.POLY_LR_POWER) == (0.9, 1e-4, 0.9)
    assert (solver.WARMUP_ITERS, solver.GATE_LR_FACTOR) == (0, 2.5)


@pytest.mark.slow
@torch.no_grad()
def test_full_network_runs_at_the_size_of_its_config():
    model = build(CONFIGS / "VOC-SemanticSegmentation" / "dr_raw_l16_imagenet_60k.yaml").eval()
    images = torch.empty(1, 3, 512, 512, device="meta")
    features = model.backbone.network.forward_dense(images).features
    assert {s: tuple(x.shape[1:]) for s, x in features.items()} == {
        0: (64, 128, 128),
        1: (128, 64, 64),
        2: (256, 32, 32),
        3: (512, 16, 16),
    }
    assert model.sem_seg_head.decoder(features).shape == (1, 21, 512, 512)
