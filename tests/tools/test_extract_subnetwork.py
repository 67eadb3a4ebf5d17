"""extract_subnetwork.py end to end: its files make a normal model that computes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import extract_subnetwork
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.evaluation.gates_file import GatesFile, RouteClusters, save_gates
from dynamic_routing.modeling import get_config
from dynamic_routing.routing import Routes
from dynamic_routing.routing.gates import FixedGate
from dynamic_routing.routing.subnetworks import common_subgraph, read_subgraph
from tests.modeling.builders import REPOSITORY, batch, relative_error, small_config, small_model
from tests.modeling.detectors import small_detector, small_detector_config

SIZE = (64, 128)
COUNT = 6
OPTIONS = ("MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS", "5", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "19")
BUDGET = ("MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA", "0.5")


def scores(model, inputs):
    with torch.no_grad():
        return torch.stack([model.eval()([x])[0]["sem_seg"] for x in inputs])


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    """A trained dynamic network as train_net.py leaves it: config, weights, gates."""
    folder = tmp_path_factory.mktemp("dynamic")
    cfg = small_config(*OPTIONS, *BUDGET)
    (folder / "config.yaml").write_text(cfg.dump())
    model = small_model(*OPTIONS, *BUDGET, seed=2, bias=0.0).eval()
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    inputs = batch(*[SIZE] * COUNT, labels=False)
    with torch.no_grad():
        routes = [model([x])[0]["routes"] for x in inputs]
    records = GatesFile(
        space=routes[0].space,
        gates=torch.cat([r.gates for r in routes]),
        rule="absent",
        file_names=tuple(f"/data/street/img_{i}.png" for i in range(COUNT)),
        image_sizes=np.array([SIZE] * COUNT),
        milliseconds=np.ones(COUNT),
        image_ids=(None,) * COUNT,
    )
    save_gates(folder / "gates.npz", records)
    return SimpleNamespace(folder=folder, model=model, inputs=inputs, records=records)


def arguments(dynamic, output, *more, weights=None, gates=None):
    folder = dynamic.folder
    command = ["--config-file", folder / "config.yaml", "--output", output, *more]
    command += ["--weights", weights or folder / "model_final.pth"]
    return [str(a) for a in [*command, "--gates", gates or folder / "gates.npz"]]


def load(output):
    """The extracted model as any program builds it, every tensor from the checkpoint."""
    cfg = get_config(output / "config.yaml")
    torch.manual_seed(99)
    model = build_model(cfg)
    left = RoutingCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    assert "model" not in left
    stored = torch.load(output / "model.pth", weights_only=True)["model"]
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(stored[k], v) for k, v in model.state_dict().items())
    return cfg, model


def test_files_are_a_config_a_checkpoint_and_the_edges(dynamic, tmp_path, capsys):
    assert extract_subnetwork.main(arguments(dynamic, tmp_path / "new" / "common")) == 0
    output = tmp_path / "new" / "common"
    assert {p.name for p in output.iterdir()} == {"config.yaml", "model.pth", "edges.json"}
    expected = common_subgraph(dynamic.records.routes)
    cfg, model = load(output)
    space = model.backbone.network.space
    assert space == expected.space == read_subgraph(output / "edges.json", num_scales=4)
    assert len(space.edges) < len(dynamic.records.space.edges)
    assert cfg.MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA == 0 and not list(model.routing_losses)
    assert all(isinstance(model.backbone.network.cell(n).gate, FixedGate) for n in space.nodes)
    strengths = torch.cat([model.backbone.network.cell(n).gate.strength for n in space.nodes])
    assert torch.equal(strengths, expected.strengths)
    said = capsys.readouterr().out
    cells = f"{len(space.grid_nodes)} of {len(dynamic.records.space.grid_nodes)} cells"
    edges = f"{len(space.edges)} of {len(dynamic.records.space.edges)} edges"
    assert f"{cells} and {edges}, from 6 images, are in {output}" in said


@pytest.mark.parametrize("image", range(COUNT))
def test_route_of_one_image_scores_as_the_dynamic_network(dynamic, tmp_path, image):
    name = f"img_{image}.png" if image % 2 else f"/data/street/img_{image}.png"
    assert extract_subnetwork.main(arguments(dynamic, tmp_path, "--images", name)) == 0
    cfg, static = load(tmp_path)
    inputs = dynamic.inputs[image : image + 1]
    assert relative_error(scores(static, inputs), scores(dynamic.model, inputs)) < 1e-5
    assert cfg.MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION == "fixed"


def test_images_of_the_test_above_take_different_routes(dynamic):
    assert len({tuple(row) for row in (dynamic.records.gates > 0).tolist()}) > 2


def test_share_and_group_of_images_are_used(dynamic, tmp_path, capsys):
    names = ["img_1.png", "img_4.png"]
    assert extract_subnetwork.main(
        arguments(dynamic, tmp_path, "--share", "0.5", "--images", *names)
    ) == 0  # fmt: skip
    routes = dynamic.records.routes
    two = common_subgraph(
        type(routes)(routes.space, routes.gates[[1, 4]], "absent", SIZE), share=0.5
    )
    assert read_subgraph(tmp_path / "edges.json", num_scales=4) == two.space
    assert "from 2 images" in capsys.readouterr().out


def test_expert_of_a_cluster_is_cut_from_its_images(dynamic, tmp_path, capsys):
    config, weights, gates = (tmp_path / name for name in ("c.yaml", "m.pth", "g.npz"))
    clusters = ("MODEL.DYNAMIC_ROUTING.DIVDR.NUM_CLUSTERS", "2")
    config.write_text(small_config(*OPTIONS, *clusters).dump())
    model = small_model(*OPTIONS, *clusters)
    model.load_state_dict(dynamic.model.state_dict(), strict=False)
    torch.save({"model": model.state_dict()}, weights)
    records = dynamic.records
    labels, dim = np.array([0, 1, 0, 0, 1, 0]), records.space.activation_dim
    found = RouteClusters(labels, np.ones(COUNT, np.float32), np.ones((2, dim), np.float32))
    save_gates(gates, replace(records, clusters=found))
    command = arguments(dynamic, tmp_path / "out", "--cluster", "1", weights=weights, gates=gates)
    command[command.index("--config-file") + 1] = str(config)
    assert extract_subnetwork.main(command) == 0
    assert "from 2 images" in capsys.readouterr().out
    cfg, static = load(tmp_path / "out")
    rows = Routes(records.space, records.gates[[1, 4]], "absent", SIZE)
    assert static.backbone.network.space == common_subgraph(rows).space
    assert cfg.MODEL.DYNAMIC_ROUTING.DIVDR.NUM_CLUSTERS == 0 and not list(static.routing_losses)


def test_extracted_network_trains_further(dynamic, tmp_path):
    assert extract_subnetwork.main(arguments(dynamic, tmp_path)) == 0
    _, model = load(tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        found = model.train()(batch(SIZE, SIZE))
        assert list(found) == ["loss_sem_seg"]
        optimizer.zero_grad()
        found["loss_sem_seg"].backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(found["loss_sem_seg"].item())
    assert losses[-1] < losses[0]


ERRORS = {
    "image": (("--images", "img_1.png", "x.png"), {}, "no image x.png in the gates file; it has"),
    "cluster": (("--cluster", "1"), {}, "the gates file has no clusters: its network was not"),
    "share": (("--share", "0"), {}, "share must be in (0, 1], got 0.0"),
    "weights": ((), {"weights": "/none/model.pth"}, "checkpoint /none/model.pth does not exist"),
    "gates": ((), {"gates": "/none/gates.npz"}, "gates file /none/gates.npz does not exist"),
    "broken gates": ((), {"gates": __file__}, "holds no gates"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_user_error_is_one_line_and_status_2(dynamic, tmp_path, capsys, what):
    more, options, message = ERRORS[what]
    assert extract_subnetwork.main(arguments(dynamic, tmp_path, *more, **options)) == 2
    found = capsys.readouterr()
    (line,) = [x for x in found.err.splitlines() if x.startswith("extract_subnetwork.py: ")]
    assert message in line and found.out == "" and "Traceback" not in found.err
    assert not list(tmp_path.glob("*.pth")) and not list(tmp_path.glob(".*.tmp"))


def test_gates_of_another_network_are_refused(dynamic, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(small_config().dump())
    torch.save({"model": small_model().state_dict()}, tmp_path / "small.pth")
    command = arguments(dynamic, tmp_path / "out", weights=tmp_path / "small.pth")
    command[command.index("--config-file") + 1] = str(config)
    assert extract_subnetwork.main(command) == 2
    assert "the source network lacks" in capsys.readouterr().err


@pytest.mark.slow
def test_extracted_network_evaluates_and_trains_with_train_net(dynamic, tmp_path):
    generate_cityscapes(tmp_path, counts={"train": 2, "val": 2}, size=SIZE, seed=1)
    assert extract_subnetwork.main(arguments(dynamic, tmp_path / "net")) == 0
    config = tmp_path / "net" / "config.yaml"
    common = "INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 128 DATALOADER.NUM_WORKERS 0".split()
    short = "SOLVER.MAX_ITER 1 SOLVER.IMS_PER_BATCH 2 INPUT.SEM_SEG_CROP [64,128]".split()
    for name, flags, more in [("evaluated", ["--eval-only"], []), ("trained", [], short)]:
        command = [sys.executable, str(REPOSITORY / "train_net.py"), "--config-file", str(config)]
        command += [*flags, "OUTPUT_DIR", str(tmp_path / name), *common, *more]
        environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        results = json.loads((tmp_path / name / "results.json").read_text())
        assert results["routing"]["distinct_routes"] == 1
        assert 0 < results["routing"]["gmacs_avg"] == results["routing"]["gmacs_max"]


@pytest.mark.parametrize("neck", ["projection", "top_down"])
def test_neck_and_heads_of_a_detector_are_kept(neck, tmp_path):
    options = ("MODEL.DYNAMIC_ROUTING.NECK", neck)
    cfg, model = small_detector_config(*options), small_detector(*options, seed=1)
    torch.save({"model": model.state_dict()}, tmp_path / "dynamic.pth")
    space = model.backbone.network.space
    gates = torch.full((1, len(space.edges)), 0.5)
    subgraph = common_subgraph(Routes(space, gates, "absent", (64, 64)))
    weights = extract_subnetwork.static_weights(cfg, str(tmp_path / "dynamic.pth"), subgraph)
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.network.")}
    assert any(k.startswith("backbone.neck.") for k in kept)
    for name, value in kept.items():
        assert torch.equal(weights[name], value), name
