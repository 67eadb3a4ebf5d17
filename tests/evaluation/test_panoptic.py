"""The panoptic evaluators: figures by hand, files in COCO's format, processes and refusals."""

import contextlib
import copy
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from dynamic_routing.evaluation.build import build_evaluator
from dynamic_routing.evaluation.panoptic import (
    PanopticQualityEvaluator,
    colours_to_ids,
    ids_to_colours,
)
from dynamic_routing.evaluation.panoptic_quality import MAX_ID
from tests.evaluation.tiny_coco import annotation, instances, registered
from tests.modeling.detectors import PANOPTIC, detection_batch, small_detector

HEIGHT, WIDTH = 60, 90
SKY = 92


def test_ids_survive_as_colours():
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 12345678, MAX_ID]])
    assert np.array_equal(colours_to_ids(ids_to_colours(ids)), ids)
    assert ids_to_colours(np.array([[258]])).tolist() == [[[2, 1, 0]]]
    with pytest.raises(ValueError, match=r"must be RGB, got an array of shape \(2, 4\)"):
        colours_to_ids(ids)


def write_truth(folder, count):
    """Images with a person on the left, and sky; file names as COCO's."""
    annotations = []
    (folder / "panoptic").mkdir(parents=True)
    for i in range(count):
        ids = np.full((HEIGHT, WIDTH), 70000 + i)
        ids[:, : 20 + 5 * i] = 5
        Image.fromarray(ids_to_colours(ids)).save(folder / "panoptic" / f"{i:012d}.png")
        infos = [{"id": 5, "category_id": 3}, {"id": 70000 + i, "category_id": SKY}]
        infos = [{**info, "iscrowd": 0, "area": 1, "bbox": [0, 0, 1, 1]} for info in infos]
        annotations.append(
            {"image_id": 100 + i, "file_name": f"{i:012d}.png", "segments_info": infos}
        )
    categories = [
        {"id": 3, "name": "person", "isthing": 1},
        {"id": 18, "name": "dog", "isthing": 1},
        {"id": SKY, "name": "sky", "isthing": 0},
    ]
    content = {"images": [], "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(content))


@pytest.fixture
def dataset(tmp_path):
    """The name of a registered data set of three images."""
    write_truth(tmp_path, 3)
    boxes = {
        "images": [
            {"id": 100 + i, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH}
            for i in range(3)
        ],
        "annotations": [annotation(i, 100 + i, 3, [0, 0, 20 + 5 * i, HEIGHT]) for i in range(3)],
        "categories": [{"id": 3, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    with registered(boxes, tmp_path / "boxes") as name:
        MetadataCatalog.get(name).set(
            panoptic_json=str(tmp_path / "panoptic.json"),
            panoptic_root=str(tmp_path / "panoptic"),
            stuff_dataset_id_to_contiguous_id={0: 0, SKY: 1},
        )
        yield name


def predict(i, shift=0):
    """What Panoptic FPN delivers for image i, with the person ``shift`` pixels too wide."""
    width = 20 + 5 * i + shift
    ids = torch.full((HEIGHT, WIDTH), 2, dtype=torch.int32)
    ids[:, :width] = 1
    infos = [
        {"id": 1, "isthing": True, "score": 0.9, "category_id": 0, "instance_id": 0},
        {"id": 2, "isthing": False, "category_id": 1, "area": 1},
        {"id": 3, "isthing": True, "score": 0.1, "category_id": 1, "instance_id": 1},
    ]
    return {"image_id": 100 + i, "file_name": f"{i:012d}.jpg"}, {"panoptic_seg": (ids, infos)}


def evaluate(evaluator, pairs):
    evaluator.reset()
    for one_input, output in pairs:
        evaluator.process([one_input], [output])
    return evaluator.evaluate()


def test_evaluator_equals_quality_by_hand_and_writes_coco_format(dataset, tmp_path):
    evaluator = PanopticQualityEvaluator(dataset, tmp_path / "out")
    results = evaluate(evaluator, [predict(i, shift=4) for i in range(3)])["panoptic_seg"]
    widths = [20, 25, 30]
    person = 100 * np.mean([w / (w + 4) for w in widths])
    sky = 100 * np.mean([(WIDTH - w - 4) / (WIDTH - w) for w in widths])
    assert results["PQ-person"] == results["SQ-person"] == pytest.approx(person)
    assert results["PQ_st"] == results["PQ-sky"] == pytest.approx(sky)
    assert results["PQ_th"] == results["PQ-person"], "a dog is neither there nor predicted"
    assert results["PQ"] == pytest.approx((person + sky) / 2) and results["RQ"] == 100
    assert math.isnan(results["PQ-dog"])
    assert all(type(value) is float for value in results.values())

    stored = json.loads((tmp_path / "out" / "panoptic_predictions.json").read_text())
    assert [a["image_id"] for a in stored["annotations"]] == [100, 101, 102]
    assert stored["annotations"][0]["segments_info"] == [
        {"id": 1, "category_id": 3},
        {"id": 2, "category_id": SKY},
    ]
    path = tmp_path / "out" / "panoptic_predictions" / stored["annotations"][1]["file_name"]
    ids = colours_to_ids(np.array(Image.open(path)))
    assert np.array_equal(ids, predict(1, shift=4)[1]["panoptic_seg"][0].numpy())


def test_its_own_predictions_as_ground_truth_have_quality_100(dataset, tmp_path):
    pairs = [predict(i, shift=4) for i in range(3)]
    evaluate(PanopticQualityEvaluator(dataset, tmp_path / "out"), pairs)
    MetadataCatalog.get(dataset).__dict__.update(
        panoptic_json=str(tmp_path / "out" / "panoptic_predictions.json"),
        panoptic_root=str(tmp_path / "out" / "panoptic_predictions"),
    )
    results = evaluate(PanopticQualityEvaluator(dataset), pairs)["panoptic_seg"]
    assert results["PQ"] == results["SQ"] == results["RQ"] == 100


def test_order_and_duplicates_do_not_matter(dataset):
    evaluator = PanopticQualityEvaluator(dataset)
    plain = evaluate(evaluator, [predict(i, shift=i) for i in range(3)])["panoptic_seg"]
    again = evaluate(evaluator, [predict(i, shift=i) for i in (2, 0, 1, 0)])["panoptic_seg"]
    assert again == pytest.approx(plain, nan_ok=True)


def test_images_of_other_processes_join_in(dataset, monkeypatch):
    plain = evaluate(PanopticQualityEvaluator(dataset), [predict(i, i) for i in range(3)])
    first, second = (PanopticQualityEvaluator(dataset) for _ in range(2))
    for part, images in ((first, [0, 2]), (second, [1])):
        for i in images:
            part.process(*([x] for x in predict(i, i)))
    monkeypatch.setattr(comm, "gather", lambda mine: [mine, second._images])
    assert first.evaluate()["panoptic_seg"] == pytest.approx(plain["panoptic_seg"], nan_ok=True)
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert second.evaluate() is None


def test_image_without_prediction_is_an_error(dataset):
    with pytest.raises(ValueError, match=r"1 of 3 images of .* have no prediction.* 101"):
        evaluate(PanopticQualityEvaluator(dataset), [predict(0), predict(2)])


def test_images_that_the_ground_truth_does_not_list_are_passed_over(dataset):
    evaluator = PanopticQualityEvaluator(dataset)
    pairs = [predict(i) for i in range(3)]
    stranger = {"image_id": 7}, pairs[0][1]
    assert evaluate(evaluator, [*pairs, stranger])["panoptic_seg"]["PQ"] == 100


def test_wrong_outputs_are_named_with_their_image(dataset):
    evaluator = PanopticQualityEvaluator(dataset)
    with pytest.raises(ValueError, match="image 100 has no 'panoptic_seg' with segments"):
        evaluator.process([{"image_id": 100}], [{"instances": None}])
    ids, infos = predict(0)[1]["panoptic_seg"]
    with pytest.raises(ValueError, match=r"image 100: ground truth is \(60, 90\), prediction"):
        evaluator.process([{"image_id": 100}], [{"panoptic_seg": (ids[:10], infos)}])
    infos = copy.deepcopy(infos)
    infos[1]["category_id"] = 53
    with pytest.raises(ValueError, match="image 100: predicted stuff class 53, .* has 2"):
        evaluator.process([{"image_id": 100}], [{"panoptic_seg": (ids, infos)}])


def test_panoptic_data_set_gets_ap_miou_and_quality(dataset, tmp_path):
    metadata = MetadataCatalog.get(dataset)
    metadata.__dict__["evaluator_type"] = "coco_panoptic_seg"
    metadata.set(sem_seg_root="x", stuff_classes=["things", "sky"], ignore_label=255)
    labels = tmp_path / "labels.png"
    Image.fromarray(np.ones((HEIGHT, WIDTH), dtype=np.uint8)).save(labels)
    pairs = [predict(i) for i in range(3)]
    records = [{**one_input, "sem_seg_file_name": str(labels)} for one_input, _ in pairs]
    DatasetCatalog.remove(dataset)
    DatasetCatalog.register(dataset, lambda: records)
    for i, (_, output) in enumerate(pairs):
        output["instances"] = instances([([0, 0, 20 + 5 * i, HEIGHT], 0, 0.9)])
        output["sem_seg"] = torch.stack([torch.zeros(HEIGHT, WIDTH), torch.ones(HEIGHT, WIDTH)])
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluate(build_evaluator(dataset, tmp_path / "out", routed=False), pairs)
    assert set(results) == {"bbox", "segm", "sem_seg", "panoptic_seg"}
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["sem_seg"]["IoU-sky"] == results["panoptic_seg"]["PQ"] == 100


def test_output_of_panoptic_fpn_is_scored_and_written(dataset, tmp_path):
    overrides = ("MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2")
    lenient = (
        "MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", "1",
        "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", "0.0",
    )  # fmt: skip
    model = small_detector(*PANOPTIC, *overrides, *lenient, seed=1).eval()
    inputs = detection_batch(*[(HEIGHT, WIDTH)] * 3, labels=False)
    evaluator = PanopticQualityEvaluator(dataset, tmp_path)
    with torch.no_grad():
        pairs = [({"image_id": 100 + i}, model([x])[0]) for i, x in enumerate(inputs)]
    results = evaluate(evaluator, pairs)["panoptic_seg"]
    assert 0 <= results["PQ"] < 100
    stored = json.loads((tmp_path / "panoptic_predictions.json").read_text())["annotations"]
    assert {info["category_id"] for a in stored for info in a["segments_info"]} <= {3, 18, SKY}
    for entry, (_, output) in zip(stored, pairs, strict=True):
        ids = colours_to_ids(
            np.array(Image.open(tmp_path / "panoptic_predictions" / entry["file_name"]))
        )
        assert np.array_equal(ids, output["panoptic_seg"][0].numpy())
        listed = [info["id"] for info in entry["segments_info"]]
        assert sorted(listed) == sorted(set(np.unique(ids).tolist()) - {0})
    assert any(entry["segments_info"] for entry in stored)


def test_unknown_kind_of_data_set_is_refused(monkeypatch):
    unknown = SimpleNamespace(get=lambda key: "lvis")
    monkeypatch.setattr(MetadataCatalog, "get", lambda name: unknown)
    with pytest.raises(ValueError, match="data set x: no evaluator for evaluator_type 'lvis'"):
        build_evaluator("x", "out", routed=False)
