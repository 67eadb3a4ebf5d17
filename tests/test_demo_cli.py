"""demo/demo.py end to end: files in, pictures and predictions out, errors in one line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from demo import demo
from dynamic_routing.data.images import read_image
from dynamic_routing.engine.predictor import Predictor
from dynamic_routing.evaluation.gates_file import load_gates
from dynamic_routing.routing import Edge, Node
from tests.engine.test_inputs import image, video
from tests.engine.test_predictor import TEST_SIZE, save
from tests.modeling.builders import CLASSES, REPOSITORY, small_config, small_model
from tests.modeling.detectors import DETECTORS, small_detector, small_detector_config


def trained(folder, model, cfg):
    """A network as train_net.py leaves it: config and weights."""
    (folder / "config.yaml").write_text(cfg.dump())
    return SimpleNamespace(cfg=cfg, config=folder / "config.yaml", weights=save(model, folder))


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentor")
    return trained(folder, small_model(seed=2), small_config(*TEST_SIZE))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    overrides = DETECTORS["panoptic_fpn"]
    cfg = small_detector_config(*overrides, *TEST_SIZE)
    return trained(folder, small_detector(*overrides, seed=2), cfg)


def arguments(network, inputs, output, *more):
    command = ["--config-file", network.config, "--weights", network.weights]
    command += ["--input", *inputs, "--output", output, *more]
    return [str(a) for a in command]


def run(network, inputs, output, *more):
    return demo.main(arguments(network, inputs, output, *more))


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def photos(tmp_path):
    """Images of odd sizes and every kind, a broken one among them."""
    folder = tmp_path / "my photos ü"
    image(folder / "a b.png")
    image(folder / "sub" / "ü.jpg", height=51, width=64, seed=1)
    Image.fromarray(np.full((40, 40), 90, np.uint8)).save(folder / "grey.png")
    Image.fromarray(np.full((20, 70, 4), 90, np.uint8)).save(folder / "rgba.png")
    (folder / "broken.png").write_text("no image")
    return folder


def test_folder_gives_pictures_labels_and_routes_and_tells_the_broken_file(
    segmentor, photos, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run(segmentor, [photos], out, "--batch-size", 3) == 1
    names = ["a b", "grey", "rgba", "ü"]
    pictures = [f"{n}_prediction.{'jpg' if n == 'ü' else 'png'}" for n in names]
    kept = ["gates.npz", "images.json", "predictions.json"]
    assert files(out) == sorted([*kept, *pictures, *(f"{n}_sem_seg.png" for n in names)])
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len([x for x in lines if str(photos / "broken.png") in x and "cannot be read" in x]) == 1
    assert "4 images, " in lines[-2] and "ms an image" in lines[-2] and "GMACs" in lines[-2]
    assert lines[-1] == "demo.py: 1 of 5 inputs could not be read" and said.out == ""


def test_files_hold_what_the_predictor_says_of_each_image(segmentor, photos, tmp_path):
    out = tmp_path / "out"
    run(segmentor, [photos], out, "--batch-size", 4, "--no-pictures")
    predictor = Predictor(segmentor.cfg, weights=segmentor.weights)
    gates, entries = load_gates(out / "gates.npz"), json.loads((out / "images.json").read_text())
    assert len(gates) == len(entries["images"]) == 4
    for row, name in enumerate(gates.file_names):
        (expected,) = predictor([read_image(name, "BGR")])
        assert torch.allclose(gates.gates[row], expected["routes"].gates[0], atol=1e-5)
        with Image.open(out / f"{Path(name).stem}_sem_seg.png") as stored:
            labels = np.asarray(stored)
        scores = expected["sem_seg"].sort(dim=0).values
        clear = (scores[-1] - scores[-2] > 1e-3).numpy()
        assert np.array_equal(labels[clear], expected["sem_seg"].argmax(dim=0).numpy()[clear])
        assert clear.mean() > 0.9
    assert [c["name"] for c in entries["labels"]] == [f"class {i}" for i in range(CLASSES)]


@pytest.mark.slow
def test_video_and_images_in_one_run_and_again(segmentor, tmp_path):
    clip, still = video(tmp_path / "my clip.mp4", size=(34, 46)), image(tmp_path / "a.png")
    out = tmp_path / "out"
    for _ in range(2):
        inputs = [clip, f"{tmp_path}/*.png"]
        assert run(segmentor, inputs, out, "--batch-size", 2, "--show-routes") == 0
    expected = ["a_prediction.png", "my clip_prediction.mp4", "my clip_routes.png"]
    assert [n for n in files(out) if "sem_seg" not in n] == sorted(
        [*expected, "gates.npz", "images.json", "predictions.json"]
    )
    gates = load_gates(out / "gates.npz")
    assert gates.file_names == (str(still), *(f"my clip_{i:06d}" for i in range(5)))


@pytest.mark.slow
def test_detector_writes_coco_results_and_panoptic_maps(detector, tmp_path):
    image(tmp_path / "in" / "a.png", height=60, width=80)
    out = tmp_path / "out"
    assert run(detector, [tmp_path / "in"], out, "--confidence", 0) == 0
    assert {"a_panoptic.png", "a_sem_seg.png", "panoptic.json"} <= set(files(out))
    truth = tmp_path / "truth.json"
    listed = json.loads((out / "images.json").read_text())
    truth.write_text(json.dumps({**listed, "annotations": []}))
    with contextlib.redirect_stdout(io.StringIO()):
        results = COCO(str(truth)).loadRes(str(out / "predictions.json"))
    assert len(results.anns) > 0
    assert all(results.annToMask(a).shape == (60, 80) for a in results.anns.values())


@pytest.mark.slow
def test_confidence_drops_instances_and_an_own_key_wins(detector, tmp_path):
    path = image(tmp_path / "a.png", height=60, width=80)
    found = {}
    for confidence, more in ((0, ()), (1, ()), (1, ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0"))):
        out = tmp_path / f"{confidence}{len(more)}"
        command = ("--no-pictures", "--confidence", confidence, *more)
        assert run(detector, [path], out, *command) == 0
        found[out.name] = len(json.loads((out / "predictions.json").read_text()))
    assert found["00"] == found["12"] > 0 == found["10"]


def test_interrupted_run_keeps_its_results(segmentor, tmp_path, monkeypatch, capsys):
    for i in range(4):
        image(tmp_path / "in" / f"{i}.png", seed=i)
    predict, calls = Predictor.__call__, []

    def third_time_unlucky(self, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(self, images)

    monkeypatch.setattr(Predictor, "__call__", third_time_unlucky)
    assert run(segmentor, [tmp_path / "in"], tmp_path / "out") == 130
    assert len(load_gates(tmp_path / "out" / "gates.npz")) == 2
    assert "interrupted; 2 images" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob(".*"))


def test_replay_shows_both_routes_and_says_what_changed(segmentor, tmp_path, capsys):
    for i in range(2):
        image(tmp_path / "in" / f"{i}.png", seed=i)
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(segmentor, [tmp_path / "in"], first, "--no-pictures") == 0
    gates = load_gates(first / "gates.npz")
    where = f"{first / 'gates.npz'}:0.png"
    command = ("--no-pictures", "--route-of", where, "--batch-size", 2)
    assert run(segmentor, [tmp_path / "in"], second, *command) == 0
    replayed = load_gates(second / "replay_gates.npz")
    assert np.array_equal(load_gates(second / "gates.npz").gates, gates.gates)
    assert np.array_equal(replayed.gates, gates.gates[[0, 0]])
    content = json.loads((second / "replay.json").read_text())
    assert content["route"] == "route of 0.png"
    own, other = content["images"]  # the first image takes its own route
    assert own["changed"]["pixels"] == 0 and own["own"]["gmacs"] == own["replayed"]["gmacs"]
    assert other["replayed"]["gmacs"] == own["own"]["gmacs"] and other["replayed"]["ms"] > 0
    assert "route of 0.png: " in capsys.readouterr().err.splitlines()[-1]


def test_edges_are_closed_from_the_command_line(segmentor, tmp_path):
    path = image(tmp_path / "a.png")
    command = ("--no-pictures", "--close", "in,1/4,down", "0,1/4,up")
    assert run(segmentor, [path], tmp_path / "out", *command[:3]) == 0
    own, other = (load_gates(tmp_path / "out" / n) for n in ("gates.npz", "replay_gates.npz"))
    column = own.space.edge_index[Edge(Node(-1, 0), "down")]
    assert own.gates[0, column] > 0 == other.gates[0, column]
    assert other.costs["gmacs"] < own.costs["gmacs"]
    assert run(segmentor, [path], tmp_path / "none", *command) == 2


WRONG = {
    "edge": (("--close", "0,1/4,up"), "there is no up edge of layer 0, 1/4; this cell has: keep"),
    "edge form": (("--open", "3"), "LAYER,SCALE,KIND such as 5,1/8,down"),
    "stored route": (("--route-of", "none.npz:a.png"), "gates file none.npz does not exist"),
    "expert": (("--expert", "3"), "GATES.npz:K"),
    "replay": (
        ("--close", "0,1/4,keep", "--no-pictures", "MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
        "SemanticSegmentor takes no routes",
    ),
    "key": (("MODEL.NOPE", "1"), "unknown config key MODEL.NOPE"),
    "half a key": (("MODEL.DEVICE",), "overrides are pairs"),
    "weights": (("--weights", "none.pth"), "checkpoint none.pth does not exist"),
    "network": (("MODEL.DYNAMIC_ROUTING.WIDTH", "6"), "of another network"),
    "config": (("--config-file", "none.yaml"), "config file none.yaml does not exist"),
    "input": (("--input", "none.png"), "input none.png does not exist"),
    "folder": (("--input", "empty"), "folder empty holds no image or video"),
    "output": (("--output", "file"), "file"),
    "own output": (("--output", "."), "choose another --output"),
    "batch": (("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
    "confidence": (("--confidence", "2"), "confidence must be in [0, 1], got 2.0"),
    "data set": (("--dataset", "coco_2017_vel"), "did you mean coco_2017_val"),
    "routes": (
        ("--show-routes", "MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
        "SemanticSegmentor takes no routes",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_user_error_is_one_line_and_status_2(segmentor, tmp_path, monkeypatch, capsys, what):
    more, message = WRONG[what]
    image(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert run(segmentor, ["a.png"], "out", *more) == 2
    said = capsys.readouterr()
    ours = [line for line in said.err.splitlines() if line.startswith("demo.py: ")]
    assert len(ours) == 1 and ours[0].startswith("demo.py: error: ") and message in ours[0]
    assert said.out == "" and "Traceback" not in said.err
    assert files(tmp_path) == ["a.png", "empty", "file"]


def test_debug_variable_shows_where_an_error_comes_from(segmentor, tmp_path, monkeypatch):
    monkeypatch.setenv("DYNAMIC_ROUTING_DEBUG", "1")
    with pytest.raises(ValueError, match="does not exist"):
        run(segmentor, ["none.png"], tmp_path / "out")


def test_weights_of_the_config_are_the_default(segmentor, tmp_path):
    path = image(tmp_path / "a.png")
    command = ["--config-file", str(segmentor.config), "--input", str(path), "--output"]
    command += [str(tmp_path / "out"), "--no-pictures"]
    assert demo.main([*command, "MODEL.WEIGHTS", segmentor.weights]) == 0
    assert demo.main(command) == 2


@pytest.mark.slow
def test_program_says_one_line_and_nothing_else(segmentor, tmp_path):
    command = [sys.executable, str(REPOSITORY / "demo" / "demo.py")]
    command += arguments(segmentor, [image(tmp_path / "a.png")], tmp_path / "out", "--no-pictures")
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "none")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""
