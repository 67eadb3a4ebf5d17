"""The files of a prediction run: complete, in place, and kept when the run is cut short."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dynamic_routing.engine.inputs import Frame, Source, read_frames
from dynamic_routing.engine.prediction_files import PredictionWriter, check_writable
from dynamic_routing.engine.prediction_run import Progress
from dynamic_routing.engine.video_file import CONTAINERS, VideoFile
from dynamic_routing.evaluation.gates_file import load_gates
from tests.engine.test_inputs import video
from tests.evaluation import predicted

SIZE = (33, 47)


def frame(name="a", *, suffix=".png", size=SIZE, number=None):
    source = Source(Path("/photos") / f"{name}{suffix}", name)
    name = name if number is None else f"{name}_{number:06d}"
    return Frame(source, name, np.full((*size, 3), 120, np.uint8), number)


def output(seed=0, **more):
    return {"routes": predicted.routes(seed), "milliseconds": 2.0, **more}


def writer(folder, **options):
    return PredictionWriter(folder, classes=predicted.CLASSES, cost=predicted.route_cost, **options)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def read_json(path):
    return json.loads(path.read_text())


def test_everything_that_a_model_says_gets_its_file(tmp_path):
    said = output(
        sem_seg=predicted.label_scores(*SIZE),
        instances=predicted.instances(*SIZE),
        panoptic_seg=predicted.panoptic(*SIZE),
    )
    with writer(tmp_path / "new" / "out") as target:
        target.write(frame("a b ü"), said)
        target.write(frame("b", suffix=".JPG"), said)
    assert files(tmp_path / "new" / "out") == sorted(
        ["a b ü_panoptic.png", "a b ü_prediction.png", "a b ü_sem_seg.png", "b_panoptic.png"]
        + ["b_prediction.jpg", "b_sem_seg.png", "gates.npz", "images.json", "panoptic.json"]
        + ["predictions.json"]
    )
    with Image.open(tmp_path / "new" / "out" / "a b ü_sem_seg.png") as labels:
        assert np.array_equal(np.asarray(labels), said["sem_seg"].argmax(dim=0).numpy())
    assert len(read_json(tmp_path / "new" / "out" / "predictions.json")) == 4


def test_gates_file_holds_the_routes_of_the_outputs(tmp_path):
    outputs = {name: output(seed) for seed, name in enumerate("cab")}
    with writer(tmp_path, pictures=False) as target:
        for name, said in outputs.items():
            target.write(frame(name), said)
    gates = load_gates(tmp_path / "gates.npz")
    assert gates.file_names == ("/photos/a.png", "/photos/b.png", "/photos/c.png")
    for i, name in enumerate("abc"):
        assert np.array_equal(gates.gates[i], outputs[name]["routes"].gates[0])
        assert gates.image_ids[i] == 1 + "cab".index(name)
    assert set(gates.costs) == {"gmacs", "paper_gflops"}


def test_without_pictures_only_results_are_written(tmp_path):
    with writer(tmp_path, pictures=False) as target:
        target.write(frame("clip", suffix=".mp4", number=0), output())
        target.write(frame("a"), output(sem_seg=predicted.label_scores(*SIZE)))
    names = ["a_sem_seg.png", "gates.npz", "images.json", "predictions.json"]
    assert files(tmp_path) == names


def test_second_run_overwrites(tmp_path):
    for seed in (0, 1):
        with writer(tmp_path) as target:
            target.write(frame(), output(seed, instances=predicted.instances(*SIZE)))
        found = files(tmp_path)
    assert found == ["a_prediction.png", "gates.npz", "images.json", "predictions.json"]
    assert np.array_equal(load_gates(tmp_path / "gates.npz").gates, predicted.routes(1).gates)
    assert len(read_json(tmp_path / "predictions.json")) == 2


def test_route_is_drawn_below_the_picture(tmp_path):
    sizes = {}
    for shown in (False, True):
        with writer(tmp_path, show_routes=shown) as target:
            target.write(frame(), output())
        with Image.open(tmp_path / "a_prediction.png") as picture:
            sizes[shown] = picture.size
    assert sizes[False] == (800, 562) and sizes[True][0] == 1200 and sizes[True][1] > 800


@pytest.mark.parametrize("size", [SIZE, (48, 64)])
def test_video_gives_a_video_of_as_many_frames_and_a_strip(tmp_path, size):
    source = Source(video(tmp_path / "clip ü.mp4", count=6, fps=12.0), "clip ü")
    out = tmp_path / "out"
    with writer(out) as target:
        target.write(frame("before"), output())
        for i in range(6):
            image = np.full((*size, 3), 20 * i, np.uint8)
            target.write(Frame(source, f"clip ü_{i:06d}", image, i), output(i))
        target.write(frame("after"), output())
        assert (out / "clip ü_prediction.mp4").exists()  # complete before the run is
    capture = cv2.VideoCapture(str(out / "clip ü_prediction.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    frames = list(read_frames([Source(out / "clip ü_prediction.mp4", "x")], on_broken=print))
    assert [f.number for f in frames] == list(range(6))
    assert all(side % 2 == 0 for side in frames[0].image.shape[:2])
    assert np.allclose([f.image.mean() for f in frames], [20 * i for i in range(6)], atol=6)
    assert (out / "clip ü_routes.png").read_bytes().startswith(b"\x89PNG")
    entries = read_json(out / "images.json")["images"]
    assert [e.get("frame") for e in entries] == [None, 0, 1, 2, 3, 4, 5, None]
    assert len(load_gates(out / "gates.npz")) == 8


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_run_keeps_what_is_done_and_no_half_file(tmp_path, error):
    source = Source(video(tmp_path / "clip.mp4"), "clip")
    out = tmp_path / "out"
    with pytest.raises(error), writer(out) as target:
        target.write(frame(), output(instances=predicted.instances(*SIZE)))
        for i in range(3):
            target.write(Frame(source, f"clip_{i:06d}", np.zeros((32, 32, 3), np.uint8), i),
                         output(i))  # fmt: skip
        raise error
    assert len(read_json(out / "predictions.json")) == 2
    assert len(load_gates(out / "gates.npz")) == 4
    frames = list(read_frames([Source(out / "clip_prediction.mp4", "x")], on_broken=print))
    assert len(frames) == 3 and not list(out.glob(".*"))


def test_run_without_images_leaves_empty_lists(tmp_path):
    with writer(tmp_path):
        pass
    assert files(tmp_path) == ["images.json", "predictions.json"]
    assert read_json(tmp_path / "predictions.json") == []


def test_model_without_routes_gets_pictures_and_no_gates(tmp_path):
    with PredictionWriter(tmp_path, classes=predicted.CLASSES, show_routes=True) as target:
        target.write(frame(), {"sem_seg": predicted.label_scores(*SIZE)})
        target.write(
            frame("clip", suffix=".mp4", number=0), {"sem_seg": predicted.label_scores(*SIZE)}
        )
    assert "gates.npz" not in files(tmp_path) and "clip_routes.png" not in files(tmp_path)
    assert "clip_prediction.mp4" in files(tmp_path)


def test_second_codec_is_taken_where_the_first_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(CONTAINERS, ".mp4", "????")
    file = VideoFile(tmp_path / "clip", fps=5.0)
    for i in range(3):
        file.write(np.full((31, 50, 3), 60 * i, np.uint8))
    file.write(np.zeros((40, 60, 3), np.uint8))  # another size than the first
    assert file.close() == tmp_path / "clip.avi" and files(tmp_path) == ["clip.avi"]
    found = list(read_frames([Source(tmp_path / "clip.avi", "x")], on_broken=print))
    assert [f.image.shape for f in found] == [(32, 50, 3)] * 4


def test_no_codec_at_all_is_one_line(tmp_path, monkeypatch):
    for suffix in CONTAINERS:
        monkeypatch.setitem(CONTAINERS, suffix, "????")
    with pytest.raises(OSError, match="use --no-pictures"):
        VideoFile(tmp_path / "clip", fps=5.0).write(np.zeros((32, 32, 3), np.uint8))
    assert VideoFile(tmp_path / "clip", fps=5.0).close() is None and files(tmp_path) == []


def test_folder_that_is_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give a folder"):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new" / "folder")
    assert files(tmp_path / "new" / "folder") == []


def test_progress_says_how_long_it_will_take():
    now, lines = [0.0], []
    progress = Progress(100, say=lines.append, clock=lambda: now[0])
    for _ in range(101):
        now[0] += 1.0
        progress.step()
    assert lines[0] == "5 of 100 images done, 1 images/s, ETA 0:01:35"
    assert lines[-1] == "100 of 100 images done, 1 images/s, ETA 0:00:00" and len(lines) == 20
    unknown = Progress(None, say=lines.append, clock=lambda: now[0])
    now[0] += 10
    unknown.step()
    assert lines[-1] == "1 images done, 0.1 images/s"
