"""Formats of predictions: what other programs read is what the model said."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from dynamic_routing.evaluation.class_names import ClassNames, PredictedClasses
from dynamic_routing.evaluation.predictions import (
    ImageInfo,
    Prediction,
    PredictionRecords,
    coco_results,
    encode_labels,
    encode_segments,
)
from tests.evaluation import predicted

SIZE = (30, 41)


def info(name="a", **options):
    return ImageInfo(name, f"folder/{name}.png", *SIZE, **options)


def records(outputs, *, cost=predicted.route_cost):
    kept = PredictionRecords(predicted.CLASSES, cost=cost)
    for i, output in enumerate(outputs):
        prediction = Prediction.from_output(output)
        kept.add(info(f"i{i}"), prediction, kept.route_record(info(f"i{i}"), prediction))
    return kept


def decoded(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def test_results_are_read_by_pycocotools(tmp_path):
    found = predicted.instances(*SIZE, keypoints=True)
    kept = records([{"instances": found}, {"instances": predicted.no_instances(*SIZE)}])
    (tmp_path / "images.json").write_text(json.dumps({**kept.images_file(), "annotations": []}))
    (tmp_path / "predictions.json").write_text(json.dumps(kept.results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "images.json"))
        results = truth.loadRes(str(tmp_path / "predictions.json"))
    assert sorted(truth.imgs) == [1, 2] and truth.imgs[1]["file_name"] == "folder/i0.png"
    entries = results.loadAnns(results.getAnnIds(imgIds=[1]))
    assert [e["category_id"] for e in entries] == [7, 4] and not results.getAnnIds(imgIds=[2])
    assert [e["score"] for e in entries] == [0.75, 0.5]
    assert {truth.cats[e["category_id"]]["name"] for e in entries} == {"car", "person"}
    for entry, mask in zip(entries, found.pred_masks):
        assert np.array_equal(results.annToMask(entry), mask.numpy())


def test_boxes_are_corner_and_size_and_masks_compressed_text():
    first, second = coco_results(predicted.instances(*SIZE), 5, info(), predicted.CLASSES)
    assert first["bbox"] == [0, 0, 20, 15] and second["bbox"] == [20, 15, 21, 15]
    assert first["image_id"] == 5 and first["file_name"] == "folder/a.png"
    assert isinstance(first["segmentation"]["counts"], str) and "keypoints" not in first
    assert mask_util.decode(first["segmentation"]).sum() == 300


def test_making_results_leaves_the_keypoints_alone():
    found = predicted.instances(*SIZE, keypoints=True)
    before = found.pred_keypoints.clone()
    (first, _) = coco_results(found, 1, info(), predicted.CLASSES)
    assert torch.equal(found.pred_keypoints, before)
    expected = before[0] - torch.tensor([0.5, 0.5, 0.0])
    assert np.allclose(first["keypoints"], expected.flatten().tolist())


def test_category_ids_without_a_data_set_are_indices_and_said_to_be():
    bare = PredictedClasses(ClassNames(), ClassNames(), num_things=3, num_stuff=0)
    results = coco_results(predicted.instances(*SIZE), 1, info(), bare)
    assert [r["category_id"] for r in results] == [1, 0]
    file = PredictionRecords(bare).images_file()
    assert file["category_ids"] == "class indices from 0"
    assert file["categories"][2] == {"id": 2, "name": "class 2"}
    assert records([]).images_file()["category_ids"] == "those of mine"


@pytest.mark.parametrize(("highest", "bits"), [(0, 8), (255, 8), (256, 16), (999, 16)])
def test_label_map_is_stored_exactly(highest, bits):
    labels = np.arange(35).reshape(5, 7) * highest // 34
    data = encode_labels(labels)
    assert data[24] == bits  # of the header; what Pillow calls it depends on its version
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), labels)


def test_label_map_is_the_highest_score_of_each_pixel():
    scores = torch.rand(3, *SIZE)
    assert np.array_equal(
        Prediction.from_output({"sem_seg": scores}).labels, scores.numpy().argmax(axis=0)
    )


def test_panoptic_map_is_coco_s(tmp_path):
    segments, infos = predicted.panoptic(*SIZE)
    stored = decoded(encode_segments(segments.numpy())).astype(int)
    assert np.array_equal(stored @ [1, 256, 65536], segments.numpy())
    file = records([{"panoptic_seg": (segments, infos)}]).panoptic_file()
    (entry,) = file["annotations"]
    assert entry["file_name"] == "i0_panoptic.png" and entry["image_id"] == 1
    car, road = entry["segments_info"]
    assert (car["id"], car["category_id"], car["area"]) == (70_000, 7, 300)
    assert (road["id"], road["category_id"], road["area"]) == (300, 21, 15 * 41)
    listed = {(c["id"], c["isthing"]) for c in file["categories"]}
    assert {(7, 1), (21, 0)} <= listed and (0, 0) not in listed
    assert json.dumps(file)


def test_gates_are_those_of_the_outputs_with_their_costs():
    outputs = [{"routes": predicted.routes(seed), "milliseconds": 3.0 + seed} for seed in range(4)]
    gates = records(outputs).gates()
    for i, output in enumerate(outputs):
        assert torch.equal(gates[i].gates, output["routes"].gates)
        assert gates.costs["gmacs"][i] == pytest.approx(float(output["routes"].gates.sum()))
    assert gates.file_names == tuple(f"folder/i{i}.png" for i in range(4))
    assert gates.image_ids == (1, 2, 3, 4) and list(gates.milliseconds) == [3, 4, 5, 6]
    assert gates.image_sizes.tolist() == [[64, 64]] * 4


def test_model_without_routes_has_no_gates():
    kept = records([{"sem_seg": predicted.label_scores(*SIZE)}])
    assert kept.gates() is None and kept.results == [] and len(kept.images) == 1


def test_frame_names_its_video():
    kept = PredictionRecords(predicted.CLASSES)
    kept.add(info(video="clip.mp4", frame=3), Prediction(), None)
    (image,) = kept.images
    assert (image["video"], image["frame"], image["height"]) == ("clip.mp4", 3, SIZE[0])
