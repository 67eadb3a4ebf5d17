"""Official instance AP on the generated tree: perfect, as by hand, and nothing left behind."""

import glob
import json
import logging
import math
import os
from importlib import import_module

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from PIL import Image

from dynamic_routing.compat import cityscapes_numpy_proxy
from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.evaluation.build import build_evaluator
from dynamic_routing.evaluation.cityscapes_instances import OfficialCityscapesInstanceEvaluator

pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
labels = import_module("cityscapesscripts.helpers.labels")
SIZE = (96, 192)
SPLIT = "cityscapes_fine_instance_seg_val"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A generated tree, registered under Detectron2's own names."""
    folder = tmp_path_factory.mktemp("datasets")
    generate_cityscapes(folder, counts={"val": 4}, size=SIZE, seed=3)
    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    register_datasets(folder)
    yield folder
    DatasetCatalog.data, MetadataCatalog.data = saved


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def truths():
    return sorted(glob.glob(f"{MetadataCatalog.get(SPLIT).gt_dir}/*/*_instanceIds.png"))


def predict(path, *, noise=None):
    """Input and output of an image from its ground truth, masks moved by ``noise`` pixels."""
    classes = MetadataCatalog.get(SPLIT).thing_classes
    ids = np.array(Image.open(path))
    masks, found = [], []
    for number in np.unique(ids[ids >= 1000]):
        name = labels.id2label[int(number) // 1000].name
        if name not in classes:
            continue
        mask = ids == number
        if noise is not None:
            mask = np.roll(mask, noise.integers(-4, 5, size=2), axis=(0, 1))
        masks.append(mask)
        found.append(classes.index(name))
    drawn = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *SIZE))
    values = (
        torch.full((len(found),), 0.9)
        if noise is None
        else torch.from_numpy(noise.random(len(found)).astype(np.float32))
    )
    instances = Instances(
        SIZE,
        pred_boxes=Boxes(torch.zeros(len(found), 4)),
        pred_classes=torch.tensor(found, dtype=torch.long),
        scores=values,
        pred_masks=drawn,
    )
    image = path.replace("gtFine", "leftImg8bit", 1).replace("_gtFine_instanceIds", "_leftImg8bit")
    return {"file_name": image}, {"instances": instances}


def evaluate(evaluator, pairs):
    evaluator.reset()
    for one_input, output in pairs:
        evaluator.process([one_input], [output])
    return evaluator.evaluate()


def by_hand(folder, pairs):
    """The script on a folder of predictions, written as its comments say; values in [0, 1]."""
    script = import_module("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    classes = MetadataCatalog.get(SPLIT).thing_classes
    lists = []
    for n, (_, output) in enumerate(pairs):
        lines, found = [], output["instances"]
        for i in range(len(found)):
            name = f"{n}_{i}.png"
            Image.fromarray(found.pred_masks[i].numpy().astype(np.uint8)).save(folder / name)
            class_id = labels.name2label[classes[int(found.pred_classes[i])]].id
            lines.append(f"{name} {class_id} {float(found.scores[i])}")
        lists.append(folder / f"{n}.txt")
        lists[-1].write_text("\n".join(lines))
    before = dict(vars(script.args))
    settings = {"predictionPath": str(folder), "JSONOutput": False, "quiet": True}
    script.args.__dict__.update(settings, gtInstancesFile=str(folder / "none.json"))
    try:
        with cityscapes_numpy_proxy():
            return script.evaluateImgLists(list(map(str, lists)), truths(), script.args)["averages"]
    finally:
        script.args.__dict__.clear()
        script.args.__dict__.update(before)


def test_perfect_predictions_have_ap_near_100(root, workplace, tmp_path):
    evaluator = OfficialCityscapesInstanceEvaluator(SPLIT, tmp_path)
    results = evaluate(evaluator, [predict(path) for path in truths()])["segm"]
    assert results["AP"] == pytest.approx(100) and results["AP50"] == pytest.approx(100)
    scored = [v for k, v in results.items() if k.startswith("AP-") and not math.isnan(v)]
    assert len(scored) >= 3 and scored == pytest.approx([100] * len(scored))
    table = json.loads((tmp_path / "class_table.json").read_text())
    assert len(table["classes"]) >= len(scored) and table["problems"] == []


def test_numbers_equal_the_script_called_by_hand(root, workplace, tmp_path):
    generator = np.random.default_rng(0)
    pairs = [predict(path, noise=generator) for path in truths()]
    results = evaluate(OfficialCityscapesInstanceEvaluator(SPLIT), pairs)["segm"]
    expected = by_hand(tmp_path, pairs)
    assert 5 < results["AP"] < 95
    assert results["AP"] == pytest.approx(100 * expected["allAp"], abs=1e-9)
    assert results["AP50"] == pytest.approx(100 * expected["allAp50%"], abs=1e-9)
    assert len(expected["classes"]) == 8
    for name, scores in expected["classes"].items():
        assert results[f"AP-{name}"] == pytest.approx(100 * scores["ap"], nan_ok=True)
        assert results[f"AP50-{name}"] == pytest.approx(100 * scores["ap50%"], nan_ok=True)


def test_nothing_is_left_behind(root, workplace):
    script = import_module("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    before = dict(vars(script.args)), script.printError, script.np, script.writeDict2JSON
    evaluator = OfficialCityscapesInstanceEvaluator(SPLIT)
    evaluate(evaluator, [predict(path) for path in truths()])
    after = dict(vars(script.args)), script.printError, script.np, script.writeDict2JSON
    assert after == before
    assert not list(workplace.iterdir()) and not os.path.exists(evaluator._temp_dir)


def test_model_that_finds_nothing_has_ap_0_and_is_told_so(root, workplace, caplog):
    pairs = [predict(path) for path in truths()]
    nothing = [(one_input, {"instances": output["instances"][:0]}) for one_input, output in pairs]
    with caplog.at_level(logging.WARNING):
        results = evaluate(OfficialCityscapesInstanceEvaluator(SPLIT), nothing)
    assert results["segm"]["AP"] == 0 and "the model predicted nothing" in caplog.text


def test_missing_image_is_an_error_and_predictions_are_removed(root, workplace):
    evaluator = OfficialCityscapesInstanceEvaluator(SPLIT)
    with pytest.raises(ValueError, match="gave up: Found no prediction for ground truth"):
        evaluate(evaluator, [predict(path) for path in truths()[:-1]])
    assert not os.path.exists(evaluator._temp_dir)


def test_boxes_alone_are_refused_with_the_key(root):
    evaluator = OfficialCityscapesInstanceEvaluator(SPLIT)
    evaluator.reset()
    boxes = Instances(SIZE, pred_boxes=Boxes(torch.zeros(1, 4)))
    with pytest.raises(ValueError, match="set MODEL.MASK_ON True"):
        evaluator.process([{"file_name": "a"}], [{"instances": boxes}])
    evaluator._working_dir.cleanup()


def test_other_processes_return_nothing(root, monkeypatch):
    evaluator = OfficialCityscapesInstanceEvaluator(SPLIT)
    evaluator.reset()
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    assert evaluator.evaluate() is None
    evaluator._working_dir.cleanup()  # the main process does it


@pytest.fixture
def tiny_split(tmp_path):
    """A function that registers a split of one image from its instance ids."""
    folder = tmp_path / "gt" / "town"
    folder.mkdir(parents=True)
    name = f"tiny_cityscapes_{tmp_path.name}"

    def build(ids):
        Image.fromarray(ids.astype(np.uint16)).save(
            folder / "town_000000_000019_gtFine_instanceIds.png"
        )
        classes = MetadataCatalog.get(SPLIT).thing_classes
        MetadataCatalog.get(name).set(
            gt_dir=str(folder.parent), thing_classes=classes, evaluator_type="cityscapes_instance"
        )
        return name

    yield build
    MetadataCatalog.remove(name)


def one_car(mask):
    """A prediction of a car."""
    found = Instances(
        mask.shape,
        pred_classes=torch.tensor([2]),
        scores=torch.tensor([0.9]),
        pred_masks=torch.from_numpy(mask[None]),
    )
    return {"file_name": "town_000000_000019_leftImg8bit.png"}, {"instances": found}


def test_predictions_on_ignored_pixels_alone_give_ap_0(tiny_split, workplace):
    """Where the untouched script ends with an IndexError."""
    ids = np.zeros((40, 60))
    ids[:, :20] = 26001
    mask = np.zeros((40, 60), dtype=bool)
    mask[:, 40:] = True
    assert MetadataCatalog.get(SPLIT).thing_classes[2] == "car"
    evaluator = build_evaluator(tiny_split(ids), workplace, routed=False)
    results = evaluate(evaluator, [one_car(mask)])
    assert results["segm"]["AP-car"] == results["segm"]["AP"] == 0


def test_split_without_objects_has_nan_and_a_reason(tiny_split, workplace, caplog):
    ids = np.full((40, 60), 7)
    ids[:5, :5] = 26001  # 25 pixels, which the script does not score
    ids[20:, :] = 26  # a group of cars
    mask = ids == 26001
    with caplog.at_level(logging.WARNING):
        results = evaluate(OfficialCityscapesInstanceEvaluator(tiny_split(ids)), [one_car(mask)])
    assert math.isnan(results["segm"]["AP"]) and "no ground truth in 1 images" in caplog.text


def test_split_without_files_is_an_error(tiny_split, tmp_path):
    name = tiny_split(np.zeros((4, 4)))
    MetadataCatalog.get(name).__dict__["gt_dir"] = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no ground truth .*_gtFine_instanceIds.png under .*now"):
        evaluate(OfficialCityscapesInstanceEvaluator(name), [])
