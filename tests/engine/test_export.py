"""Exported networks: equal to eager, whatever the route, and never one route frozen."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from detectron2.modeling import build_model
from packaging.version import Version

from dynamic_routing.engine import export
from dynamic_routing.engine.export import ExportError, ExportForm, export_model, varied_inputs
from dynamic_routing.modeling import get_config, prepare_model
from dynamic_routing.routing import (
    GateSpec,
    RoutingNetwork,
    RoutingSpace,
    prepare_for_inference,
)
from dynamic_routing.routing.exportable import exportable
from tests.modeling.builders import CONFIGS, SMALL, small_model
from tests.routing.builders import random_images, randomise, relative_error, small_network

FIXED = ("MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "fixed")
CLASSIFIER = ("MODEL.META_ARCHITECTURE", "ImageClassifier", "MODEL.CLASSIFIER.NUM_CLASSES", "7")
SUBGRAPH = ("MODEL.DYNAMIC_ROUTING.SPACE.SUBGRAPH", "fcn_32s")
RELEASED = ("MODEL.DYNAMIC_ROUTING.UNREACHED", "released")
SMALL_GATE = ("MODEL.DYNAMIC_ROUTING.GATE.SMALL", "True")
TINY = (
    *("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "2"),
    *("MODEL.DYNAMIC_ROUTING.SPACE.NUM_SCALES", "2"),
    *("MODEL.SEM_SEG_HEAD.IN_FEATURES", "('p2', 'p3')"),
)
SIZE = (64, 96)

# What torch says of Python 3.13.0 when it compiles the branches of torch.cond.
pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")
needs_cond = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.12"), reason="torch.cond of 2.11 takes no free sizes"
)


def model_of(*overrides, seed: int = 5):
    """A small model whose norms have seen images, so that gates differ between images."""
    model = small_model(*overrides, seed=seed, bias=0.3).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        images = torch.cat([export._random_image(Shape, SIZE, generator) for _ in range(16)])
        normalised = (images - model.pixel_mean) / model.pixel_std
        for _ in range(2):
            model.backbone.network.forward_dense(normalised)
    return model.eval()


class Shape:
    """What ``_random_image`` asks for."""

    channels = 3


def routes_of(model, images) -> int:
    with torch.no_grad():
        routes = [model.backbone.network((x - model.pixel_mean) / model.pixel_std).routes
                  for x in images]  # fmt: skip
    return len({r.open.numpy().tobytes() for r in routes})


# Forms, without exporting -----------------------------------------------------------------------


GATES = [GateSpec(), GateSpec(small=True), GateSpec("softmax")]
CASES = [("masked", gate, rule) for gate in GATES for rule in ("absent", "released")]
CASES += [
    pytest.param("branches", GATES[i], rule, marks=[pytest.mark.slow, needs_cond])
    for i, rule in enumerate(("absent", "released"))
]


@pytest.mark.parametrize(("form", "gate", "rule"), CASES, ids=str)
def test_forms_equal_sparse_execution(form, gate, rule):
    network = small_network(gate=gate, unreached=rule, seed=2)
    module = exportable(network, form)
    for image in random_images(4, height=64).split(1):
        with torch.no_grad():
            features, reached, gates = module(image)
            wanted = network(image)
        assert relative_error(gates, wanted.routes.gates) < 1e-12
        for s, feature in enumerate(features):
            assert relative_error(feature, wanted.features[s]) < 1e-12
            assert torch.equal(reached[s], wanted.routes.output_reached(s))


def test_masked_form_takes_a_batch_and_outputs_without_edges():
    network = small_network(RoutingSpace.grid(3), seed=4)
    images = random_images(5)
    with torch.no_grad():
        features, _, gates = exportable(network, "masked")(images)
        wanted = network(images)
    assert relative_error(gates, wanted.routes.gates) < 1e-12
    space = RoutingSpace.from_edges([(-1, 0, "keep"), (0, 0, "keep")], num_scales=3)
    static = RoutingNetwork(space, width=8, gate=GateSpec("fixed")).eval()
    features, reached, _ = exportable(static, "static")(torch.rand(2, 3, 32, 32))
    assert features[2].shape == (2, 32, 2, 2) and not reached[2].any()


# Wrong modes ------------------------------------------------------------------------------------


def test_static_export_of_a_dynamic_network_is_refused(tmp_path):
    with pytest.raises(ExportError, match="it would keep one of them; take masked or branches"):
        export_model(model_of(), tmp_path / "m.pt2", form="static", size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_tracing_sparse_execution_fails_loudly():
    network = small_network().float()
    image = torch.rand(1, 3, 32, 64)
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="would keep the route of"):
        warnings.simplefilter("ignore")  # torch.jit.trace is deprecated
        torch.jit.trace(network, image, check_trace=False)
    with pytest.raises(RuntimeError, match="would keep the route of the example"):
        torch.export.export(network, (image,), strict=False)
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="would keep the route of"):
        warnings.simplefilter("ignore")
        torch.jit.trace(prepare_for_inference(network), image, check_trace=False)


def test_prepared_copies_are_not_exported(tmp_path):
    with pytest.raises(ExportError, match="must build one routing network"):
        export_model(prepare_model(model_of()), tmp_path / "m.pt2", form="masked", size=SIZE)


def test_training_mode_and_unknown_forms_are_refused(tmp_path):
    with pytest.raises(ExportError, match="evaluation mode"):
        export_model(model_of().train(), tmp_path / "m.pt2", form="masked", size=SIZE)
    with pytest.raises(ExportError, match="'sparse' is unknown; allowed: static, masked, branches"):
        export_model(model_of(), tmp_path / "m.pt2", form="sparse", size=SIZE)
    with pytest.raises(ExportError, match="branches go to .pt2"):
        export_model(model_of(), tmp_path / "m.onnx", form="branches", size=SIZE)
    with pytest.raises(ExportError, match="must end in"):
        export_model(model_of(), tmp_path / "m.pth", form="masked", size=SIZE)
    with pytest.raises(ExportError, match="multiples of 32, got 64x90"):
        export_model(model_of(), tmp_path / "m.pt2", form="masked", size=(64, 90))
    for size in ((32, 64), (64, 32 * 129)):
        with pytest.raises(ExportError, match="needs 2 to 128 strides of 32 a side"):
            export_model(model_of(), tmp_path / "m.pt2", form="masked", size=size)
    with pytest.raises(ExportError, match="needs|must build one routing network"):
        r50 = CONFIGS / "COCO-Detection" / "r50_fpn_faster_rcnn_1x.yaml"
        plain = build_model(get_config(r50, ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18",
                                             "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]))  # fmt: skip
        export_model(plain.eval(), tmp_path / "m.pt2", form="masked", size=SIZE)


def test_collapsed_network_cannot_be_checked(tmp_path):
    model = model_of()
    for cell in model.backbone.network.cells.values():
        torch.nn.init.zeros_(cell.gate.predict.weight)
        torch.nn.init.constant_(cell.gate.predict.bias, 9.0)
    with pytest.raises(ExportError, match="all take one route"):
        export_model(model, tmp_path / "m.pt2", form="masked", size=SIZE)


@pytest.mark.slow
def test_deviation_is_noticed_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "eager_outputs", lambda *a: [x + 1 for x in eager(*a)])
    with pytest.raises(ExportError, match="differs from eager by"):
        export_model(model_of(*FIXED), tmp_path / "m.pt2", form="static", size=SIZE, dynamic=False)
    assert list(tmp_path.iterdir()) == []


eager = export.eager_outputs


def test_inputs_take_different_routes():
    model = model_of()
    module = ExportForm(model, "masked")
    with torch.no_grad():
        inputs, count = varied_inputs(model, module, size=SIZE, seed=0)
    assert count == 3 == routes_of(model, inputs)
    assert all(x.shape == (1, 3, *SIZE) and 0 <= x.min() and x.max() <= 255 for x in inputs)


# Exported ---------------------------------------------------------------------------------------


def check_file(path, model, module_names, *, batch: int):
    """The file as another program would use it."""
    program = torch.export.load(io.BytesIO(path.read_bytes()))
    images = torch.rand(batch, 3, 128, 64) * 255
    with torch.no_grad():
        found = program.module()(images)
        wanted = eager(model, ExportForm(model, "masked"), images)
    assert len(found) == len(wanted) == len(module_names)
    for a, b in zip(found, wanted):
        assert relative_error(a, b) < 1e-4


@pytest.mark.parametrize(
    ("overrides", "form", "names"),
    [
        pytest.param(TINY, "masked", ("scores", "gates"), marks=pytest.mark.slow),
        pytest.param(FIXED, "static", ("scores", "gates"), marks=pytest.mark.slow),
        pytest.param(SUBGRAPH + FIXED, "static", ("scores", "gates"), marks=pytest.mark.slow),
        pytest.param(CLASSIFIER + TINY, "masked", ("scores", "gates"), marks=pytest.mark.slow),
        pytest.param(RELEASED + TINY, "masked", ("scores", "gates"), marks=pytest.mark.slow),
    ],
    ids=["tiny", "fixed", "classic", "classifier", "released"],
)
def test_export_holds_every_size_and_batch(tmp_path, overrides, form, names):
    model = model_of(*overrides)
    report = export_model(model, tmp_path / "m.pt2", form=form, size=SIZE)
    assert report.deviation < 1e-4 and report.names == names and report.dynamic
    assert report.routes == (3 if form == "masked" else 1)
    check_file(tmp_path / "m.pt2", model, names, batch=3)


@pytest.mark.slow
def test_small_gates_say_from_which_size_on(tmp_path):
    """torch keeps the way in which the small gate shrinks the example."""
    model = model_of(*TINY, *SMALL_GATE)
    report = export_model(model, tmp_path / "m.pt2", form="masked", size=SIZE)
    assert report.smallest == 64  # a quarter of 8 pixels at the coarsest stride, 8, is two
    assert report.deviation < 1e-4
    with pytest.raises(ExportError, match="does not take 32x24: .*a larger --size leaves more"):
        export_model(model, tmp_path / "n.pt2", form="masked", size=(24, 16))
    assert not (tmp_path / "n.pt2").exists()


def test_program_that_fails_at_another_size_is_one_line():
    model = model_of(*FIXED)

    def run(images):
        raise AssertionError("Guard failed\nmore lines")

    module = ExportForm(model, "static")
    with torch.no_grad(), pytest.raises(ExportError, match="does not take 64x96: Guard failed;"):
        export._deviation(model, module, run, torch.rand(1, 3, *SIZE))


def test_other_sizes_stay_within_the_limit():
    sides = export.LARGEST_SIDE * 4
    inputs = [torch.rand(1, 1, sides, 8), torch.rand(1, 1, sides, sides), torch.rand(1, 1, 8, 8)]
    for before, after in zip(inputs, export._other_sizes(inputs, 4), strict=True):
        assert all(a != b and a % 4 == 0 and 4 <= a <= sides
                   for a, b in zip(after.shape[-2:], before.shape[-2:]))  # fmt: skip


@pytest.mark.slow
@needs_cond
def test_branches_hold_every_size(tmp_path):
    model = model_of(*TINY)
    report = export_model(model, tmp_path / "m.pt2", form="branches", size=SIZE)
    assert report.deviation < 1e-4 and report.routes == 3
    check_file(tmp_path / "m.pt2", model, report.names, batch=1)


@pytest.mark.slow
@needs_cond
def test_branches_skip_what_is_closed():
    model = model_of(*TINY)
    program = export._exported(ExportForm(model, "branches"), torch.rand(1, 3, *SIZE),
                               form="branches", dynamic=False)  # fmt: skip
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    cells = len(model.backbone.network.space.nodes)
    assert targets.count(torch.ops.higher_order.cond) >= 2 * cells


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [TINY + FIXED, TINY], ids=["static", "masked"])
def test_onnxruntime_agrees(tmp_path, overrides):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = model_of(*overrides)
    form = "masked" if overrides == TINY else "static"
    report = export_model(model, tmp_path / "m.onnx", form=form, size=SIZE)
    assert report.deviation < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    images = torch.rand(2, 3, 128, 64) * 255
    with torch.no_grad():
        wanted = eager(model, ExportForm(model, form), images)
    for a, b in zip(session.run(None, {"images": images.numpy()}), wanted):
        assert relative_error(torch.from_numpy(a), b) < 1e-4


def test_detection_backbone_gives_its_features():
    file = CONFIGS / "quick" / "dr_c_faster_rcnn_coco.yaml"
    overrides = [*SMALL, "MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "5"]
    model = build_model(get_config(file, overrides))
    randomise(model, seed=1)
    module = ExportForm(model.eval(), "masked")
    assert module.names == ["p2", "p3", "p4", "p5", "p6", "gates"]
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64) * 255
        for a, b in zip(module(image), eager(model, module, image)):
            torch.testing.assert_close(a, b)
