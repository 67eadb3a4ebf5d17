"""Detectron2's builtin COCO names on generated data: every kind of detector gets its figures."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.coco import generate_coco
from dynamic_routing.engine.trainer import Trainer
from dynamic_routing.evaluation.build import build_evaluator
from dynamic_routing.evaluation.panoptic import colours_to_ids
from tests.modeling.detectors import (
    FASTER,
    KEYPOINT,
    MASK,
    PANOPTIC,
    RETINA,
    small_detector,
    small_detector_config,
)

IMAGES = 4
INSTANCES, POINTS = "coco_2017_val", "keypoints_coco_2017_val"
SEPARATED = "coco_2017_val_panoptic_separated"


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    """A generated tree, registered under Detectron2's own names."""
    folder = tmp_path_factory.mktemp("datasets")
    generate_coco(folder, counts={"val": IMAGES}, size=(128, 160), seed=2)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_datasets(folder)
    yield folder
    DatasetCatalog.data, MetadataCatalog.data = saved


def noisy_instances(truth, image, generator):
    """Boxes and masks of an image moved by some pixels, with random scores, some wrong classes."""
    to_index = MetadataCatalog.get(INSTANCES).thing_dataset_id_to_contiguous_id
    annotations = truth.loadAnns(truth.getAnnIds(image["id"], iscrowd=False))
    boxes, masks, classes = [], [], []
    for annotation in annotations:
        x, y = generator.integers(-3, 4, size=2)
        left, top, width, height = annotation["bbox"]
        boxes.append([left + x, top + y, left + x + width, top + y + height])
        masks.append(np.roll(truth.annToMask(annotation).astype(bool), (y, x), axis=(0, 1)))
        wrong = generator.random() < 0.2
        classes.append(0 if wrong else to_index[annotation["category_id"]])
    size = image["height"], image["width"]
    return Instances(
        size,
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        pred_masks=torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size)),
        pred_classes=torch.tensor(classes, dtype=torch.long),
        scores=torch.from_numpy(generator.random(len(boxes)).astype(np.float32)),
    )


def quietly(call, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return call(*arguments)


def by_hand(truth, results, task):
    """The six figures that COCO's own tool prints for a file of results, in %."""
    predictions = json.loads(results.read_text())
    if task == "segm":  # else a small mask in a large box would count as large
        predictions = [{k: v for k, v in p.items() if k != "bbox"} for p in predictions]
    scores = COCOeval(truth, truth.loadRes(predictions), task)
    scores.evaluate()
    scores.accumulate()
    scores.summarize()
    return [100 * value if value >= 0 else float("nan") for value in scores.stats[:6]]


def test_ap_equals_pycocotools_on_the_written_file(tmp_path):
    truth = quietly(COCO, MetadataCatalog.get(INSTANCES).json_file)
    DatasetCatalog.get(INSTANCES)
    generator = np.random.default_rng(0)
    evaluator = build_evaluator(INSTANCES, tmp_path, routed=False)
    evaluator.reset()
    for image in truth.dataset["images"]:
        output = {"instances": noisy_instances(truth, image, generator)}
        evaluator.process([{"image_id": image["id"]}], [output])
    results = quietly(evaluator.evaluate)
    for task in ("bbox", "segm"):
        found = [results[task][k] for k in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
        expected = quietly(by_hand, truth, tmp_path / "coco_instances_results.json", task)
        assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)
        assert 5 < found[0] < 95


def test_ground_truth_as_prediction_has_panoptic_quality_100(tmp_path):
    metadata = MetadataCatalog.get(SEPARATED)
    DatasetCatalog.get(SEPARATED)
    evaluator = build_evaluator(SEPARATED, tmp_path, routed=False)._evaluators[-1]
    evaluator.reset()
    with open(metadata.panoptic_json) as file:
        annotations = json.load(file)["annotations"]
    for annotation in annotations:
        ids = colours_to_ids(
            np.array(Image.open(f"{metadata.panoptic_root}/{annotation['file_name']}"))
        )
        infos = [
            contiguous(metadata, info)
            for info in annotation["segments_info"]
            if not info["iscrowd"]
        ]
        ids[~np.isin(ids, [info["id"] for info in infos])] = 0
        output = {"panoptic_seg": (torch.from_numpy(ids), infos)}
        evaluator.process([{"image_id": annotation["image_id"]}], [output])
    results = evaluator.evaluate()["panoptic_seg"]
    assert results["PQ"] == results["SQ_th"] == results["RQ_st"] == 100


def contiguous(metadata, info):
    """A segment of the ground truth as a model would describe it."""
    for kind in ("thing", "stuff"):
        to_index = metadata.get(f"{kind}_dataset_id_to_contiguous_id")
        if info["category_id"] in to_index:
            index = to_index[info["category_id"]]
            return {"id": info["id"], "category_id": index, "isthing": kind == "thing"}
    raise AssertionError(info)


KINDS = {
    "faster_rcnn": (FASTER, INSTANCES, {"bbox"}),
    "mask_rcnn": (MASK, INSTANCES, {"bbox", "segm"}),
    "keypoint_rcnn": (KEYPOINT, POINTS, {"bbox", "keypoints"}),
    "retinanet": (RETINA, INSTANCES, {"bbox"}),
    "panoptic_fpn": (PANOPTIC, SEPARATED, {"bbox", "segm", "sem_seg", "panoptic_seg"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_trainer_reports_every_figure_of_a_detector(kind, tmp_path):
    overrides, name, groups = KINDS[kind]
    classes = 1 if name == POINTS else 80
    overrides = (
        *overrides, "MODEL.ROI_HEADS.NUM_CLASSES", str(classes),
        "MODEL.RETINANET.NUM_CLASSES", str(classes), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "54",
        "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0", "TEST.DETECTIONS_PER_IMAGE", "10",
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)",
        "DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)",
        "OUTPUT_DIR", str(tmp_path),
        "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
    )  # fmt: skip
    model = small_detector(*overrides, seed=1)
    results = quietly(Trainer.test, small_detector_config(*overrides), model)
    assert set(results) == {*groups, "routing"}
    assert results["routing"]["images"] == IMAGES
    assert results["routing"]["backbone_gmacs_avg"] < results["routing"]["gmacs_avg"]
    for group in groups & {"bbox", "segm", "keypoints"}:
        assert 0 <= results[group]["AP"] < 50
    table = json.loads((tmp_path / "inference" / "class_table.json").read_text())
    assert 0 < sum(entry["predictions"] for entry in table["classes"]) <= 10 * IMAGES
