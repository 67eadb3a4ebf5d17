"""Detectron2's mIoU, the official script's and one counted pixel by pixel."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
from detectron2.evaluation import DatasetEvaluators
from PIL import Image

from dynamic_routing.evaluation.build import build_evaluator
from dynamic_routing.evaluation.image_scores import load_scores
from dynamic_routing.evaluation.sem_seg import OFFICIAL_KEY, build_sem_seg_evaluators

labels = pytest.importorskip("cityscapesscripts.helpers.labels")
pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

HEIGHT, WIDTH, CLASSES = 24, 40, 19
CAR = 13


def write_cityscapes(root, truths):
    """A split in Cityscapes' layout from (H, W) training ids, 255 where ignored."""
    to_id = np.zeros(256, dtype=np.uint8)  # 255 -> id 0, "unlabeled"
    for train_id in range(CLASSES):
        to_id[train_id] = labels.trainId2label[train_id].id
    for i, truth in enumerate(truths):
        images, gt = root / "leftImg8bit" / "town", root / "gtFine" / "town"
        images.mkdir(parents=True, exist_ok=True)
        gt.mkdir(parents=True, exist_ok=True)
        stem = f"town_{i:06d}_000000"
        Image.fromarray(np.zeros((*truth.shape, 3), np.uint8)).save(
            images / f"{stem}_leftImg8bit.png"
        )
        ids = to_id[truth]
        instances = ids.astype(np.uint16)
        instances[truth == CAR] = 26 * 1000 + 1
        Image.fromarray(ids).save(gt / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(instances).save(gt / f"{stem}_gtFine_instanceIds.png")
        Image.fromarray(truth.astype(np.uint8)).save(gt / f"{stem}_gtFine_labelTrainIds.png")
        size = {"imgHeight": truth.shape[0], "imgWidth": truth.shape[1], "objects": []}
        (gt / f"{stem}_gtFine_polygons.json").write_text(json.dumps(size))


@pytest.fixture
def dataset(tmp_path):
    """Registers a data set like Detectron2's cityscapes_fine_sem_seg_val; returns a builder."""
    names = []

    def build(truths):
        name = f"toy_cityscapes_{tmp_path.name}_{len(names)}"
        root = tmp_path / name
        write_cityscapes(root, truths)
        images, gt = str(root / "leftImg8bit"), str(root / "gtFine")
        DatasetCatalog.register(name, lambda: load_cityscapes_semantic(images, gt))
        builtin = MetadataCatalog.get("cityscapes_fine_sem_seg_val")
        MetadataCatalog.get(name).set(
            gt_dir=gt,
            evaluator_type=builtin.evaluator_type,
            ignore_label=builtin.ignore_label,
            stuff_classes=builtin.stuff_classes,
        )
        names.append(name)
        return name

    yield build
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def evaluate(name, predictions, folder=None):
    evaluators = DatasetEvaluators(build_sem_seg_evaluators(name, folder))
    evaluators.reset()
    records = sorted(DatasetCatalog.get(name), key=lambda record: record["file_name"])
    for record, prediction in zip(records, predictions):
        scores = torch.nn.functional.one_hot(torch.from_numpy(prediction), CLASSES)
        evaluators.process([record], [{"sem_seg": scores.permute(2, 0, 1).float()}])
    return evaluators.evaluate()


def count_iou(truths, predictions):
    """IoU of each class in % by sets of pixels; None for a class without truth or prediction."""
    result = []
    for c in range(CLASSES):
        both = either = 0
        for truth, prediction in zip(truths, predictions):
            valid = truth != 255
            both += int(((truth == c) & (prediction == c) & valid).sum())
            either += int((((truth == c) | (prediction == c)) & valid).sum())
        result.append(100 * both / either if either else None)
    return result


def random_labels(generator, classes):
    blocks = generator.choice(classes, size=(HEIGHT // 4, WIDTH // 4))
    return np.repeat(np.repeat(blocks, 4, 0), 4, 1)


def disturbed(generator, truth, classes):
    noise = generator.choice(classes, size=truth.shape)
    wrong = (generator.random(truth.shape) < 0.3) | (truth == 255)
    return np.where(wrong, noise, truth)


def test_both_evaluators_agree_with_counting(dataset, tmp_path):
    generator = np.random.default_rng(0)
    truths = [random_labels(generator, [*range(CLASSES), 255]) for _ in range(4)]
    assert set(np.unique(truths)) == {*range(CLASSES), 255}
    predictions = [disturbed(generator, truth, range(CLASSES)) for truth in truths]
    name = dataset(truths)
    results = evaluate(name, predictions, tmp_path)
    expected = count_iou(truths, predictions)
    official = results[OFFICIAL_KEY]
    assert results["sem_seg"]["mIoU"] == pytest.approx(sum(expected) / CLASSES, abs=1e-6)
    assert official["IoU"] == pytest.approx(results["sem_seg"]["mIoU"], abs=1e-6)
    assert official["IoU_in_truth"] == pytest.approx(results["sem_seg"]["mIoU"], abs=1e-6)
    for c, class_name in enumerate(MetadataCatalog.get(name).stuff_classes):
        assert official[f"IoU-{class_name}"] == pytest.approx(expected[c], abs=1e-6)
        assert results["sem_seg"][f"IoU-{class_name}"] == pytest.approx(expected[c], abs=1e-6)
    assert {"IoU", "iIoU", "IoU_sup", "iIoU_sup"} < set(official)
    assert (tmp_path / "sem_seg_predictions.json").is_file()


def test_classes_without_truth_differ_as_documented(dataset):
    generator = np.random.default_rng(1)
    truths = [random_labels(generator, [0, 1, 2, CAR, 255]) for _ in range(3)]
    predictions = [disturbed(generator, truth, [0, 1, 2, 3, 4, CAR]) for truth in truths]
    name = dataset(truths)
    results = evaluate(name, predictions)
    expected = count_iou(truths, predictions)
    in_truth = [expected[c] for c in (0, 1, 2, CAR)]
    official = results[OFFICIAL_KEY]
    assert expected[3] == expected[4] == 0 and expected[5] is None
    assert results["sem_seg"]["mIoU"] == pytest.approx(sum(in_truth) / 4, abs=1e-6)
    assert official["IoU_in_truth"] == pytest.approx(sum(in_truth) / 4, abs=1e-6)
    assert official["IoU"] == pytest.approx(sum(in_truth) / 6, abs=1e-6)
    assert math.isnan(official["IoU-pole"]) and official["IoU-wall"] == 0


def test_builtin_split_reads_training_ids(dataset):
    """What the agreement rests on: metadata of the built-in split, and its loader's files."""
    builtin = MetadataCatalog.get("cityscapes_fine_sem_seg_val")
    assert builtin.evaluator_type == "cityscapes_sem_seg" and builtin.ignore_label == 255
    names = [labels.trainId2label[i].name for i in range(CLASSES)]
    assert builtin.stuff_classes == names
    name = dataset([np.zeros((HEIGHT, WIDTH), dtype=int)])
    record = DatasetCatalog.get(name)[0]
    assert record["sem_seg_file_name"].endswith("_gtFine_labelTrainIds.png")


def test_missing_prediction_is_an_error_and_leaves_nothing_behind(dataset):
    script = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    before = dict(vars(script.args)), script.printError, script.np
    truths = [np.zeros((HEIGHT, WIDTH), dtype=int)] * 2
    with pytest.raises(ValueError, match="no prediction for ground truth .*town_000001"):
        evaluate(dataset(truths), truths[:1])
    assert (dict(vars(script.args)), script.printError, script.np) == before


def test_other_data_sets_get_one_evaluator(tmp_path):
    name = f"plain_{tmp_path.name}"
    truth = np.array([[0, 1], [1, 255]], dtype=np.uint8)
    image = Image.fromarray(truth)
    image.putpalette(list(range(256)) * 3)
    image.save(tmp_path / "truth.png")
    record = {"file_name": "a.png", "sem_seg_file_name": str(tmp_path / "truth.png")}
    DatasetCatalog.register(name, lambda: [record])
    MetadataCatalog.get(name).set(
        evaluator_type="sem_seg", stuff_classes=["a", "b"], ignore_label=255
    )
    try:
        (evaluator,) = build_sem_seg_evaluators(name, None)
        evaluator.reset()
        scores = torch.nn.functional.one_hot(torch.tensor([[0, 1], [0, 0]]), 2)
        evaluator.process([record], [{"sem_seg": scores.permute(2, 0, 1).float()}])
        assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(50)  # 1/2 and 1/2
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_scores_of_an_image_equal_counting_its_pixels(dataset, tmp_path):
    generator = np.random.default_rng(2)
    truths = [random_labels(generator, [0, 1, 2, CAR, 255]) for _ in range(3)]
    truths.append(np.full((HEIGHT, WIDTH), 255))
    predictions = [disturbed(generator, truth, [0, 1, 2, 3, CAR]) for truth in truths]
    name = dataset(truths)
    evaluator = build_evaluator(name, tmp_path, routed=False)
    evaluator.reset()
    records = sorted(DatasetCatalog.get(name), key=lambda record: record["file_name"])
    for record, prediction in zip(records, predictions):
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(prediction), CLASSES)
        evaluator.process([record], [{"sem_seg": one_hot.permute(2, 0, 1).float()}])
    results = evaluator.evaluate()
    scores = load_scores(tmp_path / f"scores_{name}.json")
    for record, truth, prediction in list(zip(records, truths, predictions))[:-1]:
        ious = [iou for iou in count_iou([truth], [prediction]) if iou is not None]
        (found,) = scores.of("iou", (record["file_name"],))
        assert 100 * found == pytest.approx(sum(ious) / len(ious))
        right = (truth == prediction)[truth != 255].mean()
        assert scores.of("pixel_accuracy", (record["file_name"],)) == pytest.approx(right)
    assert math.isnan(scores.of("iou", (records[-1]["file_name"],))[0])
    confusion = np.zeros((CLASSES, CLASSES), dtype=int)
    for truth, prediction in zip(truths, predictions):
        for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist()):
            if t != 255:
                confusion[t, p] += 1
    np.testing.assert_array_equal(scores.confusion, confusion)
    assert list(scores.classes) == MetadataCatalog.get(name).stuff_classes
    accuracy = 100 * confusion.trace() / confusion.sum()
    assert results["sem_seg"]["pACC"] == pytest.approx(accuracy)
