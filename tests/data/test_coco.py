"""The generated COCO tree, read by pycocotools, panopticapi's rules and Detectron2."""

import contextlib
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynamic_routing.data.catalog import register_datasets
from dynamic_routing.data.coco import generate_coco
from dynamic_routing.data.coco_categories import (
    instance_categories,
    keypoint_categories,
    panoptic_categories,
    stuff_labels,
)
from dynamic_routing.data.coco_person import KEYPOINT_NAMES
from dynamic_routing.data.coco_scenes import draw_coco_scene
from dynamic_routing.data.tree import image_generator

SIZE = (96, 128)
COUNTS = {"train": 45, "val": 9}
SEED = 5


@pytest.fixture(scope="module")
def coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small COCO tree; tests must not change it."""
    folder = tmp_path_factory.mktemp("datasets")
    generate_coco(folder, counts=COUNTS, size=SIZE, seed=SEED)
    return folder


def opened(root: Path, kind: str, split: str = "train") -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(root / f"coco/annotations/{kind}_{split}2017.json"))


@pytest.fixture(scope="module")
def instances(coco_root: Path) -> COCO:
    return opened(coco_root, "instances")


@pytest.fixture(scope="module")
def people(coco_root: Path) -> COCO:
    return opened(coco_root, "person_keypoints")


def content(root: Path, kind: str, split: str) -> dict:
    return json.loads((root / f"coco/annotations/{kind}_{split}2017.json").read_text())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def digests(tree: Path) -> dict[str, str]:
    files = [path for path in tree.rglob("*") if path.is_file()]
    return {str(f.relative_to(tree)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def segment_ids(path: Path) -> np.ndarray:
    """Ids in a panoptic PNG, by panopticapi's rule."""
    return pixels(path).astype(np.int64) @ [1, 256, 256**2]


def test_tree_has_the_layout_of_coco_2017(coco_root: Path) -> None:
    tree = coco_root / "coco"
    kinds = ("instances", "panoptic", "person_keypoints")
    wanted = {f"{kind}_{split}2017.json" for kind in kinds for split in COUNTS}
    assert {path.name for path in (tree / "annotations").iterdir()} == wanted
    for split, count in COUNTS.items():
        first = 1 if split == "train" else 500_001
        for folder, suffix, mode in (
            ("", "jpg", "RGB"), ("panoptic_", "png", "RGB"), ("panoptic_stuff_", "png", "L"),
        ):  # fmt: skip
            files = sorted((tree / f"{folder}{split}2017").iterdir())
            assert [f.name for f in files] == [f"{first + i:012d}.{suffix}" for i in range(count)]
            with Image.open(files[0]) as image:
                assert (image.size, image.mode) == (SIZE[::-1], mode)


@pytest.mark.parametrize("split", COUNTS)
def test_json_has_the_fields_of_coco_and_the_profile(coco_root: Path, split: str) -> None:
    files = {
        kind: content(coco_root, kind, split)
        for kind in ("instances", "panoptic", "person_keypoints")
    }
    for data in files.values():
        assert set(data) == {"info", "licenses", "images", "annotations", "categories"}
        assert data["images"] == files["instances"]["images"]
    images = files["instances"]["images"]
    assert [image["profile"] for image in images[:4]] == ["large", "small", "mixed", "large"]
    assert [image["id"] for image in images] == sorted({image["id"] for image in images})
    common = {"segmentation", "area", "iscrowd", "image_id", "bbox", "category_id", "id"}
    assert all(set(entry) == common for entry in files["instances"]["annotations"])
    more = common | {"keypoints", "num_keypoints"}
    assert all(set(entry) == more for entry in files["person_keypoints"]["annotations"])
    ids = [entry["id"] for entry in files["instances"]["annotations"]]
    assert len(set(ids)) == len(ids)
    persons = [e["id"] for e in files["instances"]["annotations"] if e["category_id"] == 1]
    assert persons == [entry["id"] for entry in files["person_keypoints"]["annotations"]]


def test_categories_are_the_official_ones() -> None:
    from detectron2.data.datasets import builtin_meta as official

    own = [(e["id"], e["name"], e["isthing"]) for e in panoptic_categories()]
    assert own == [(e["id"], e["name"], e["isthing"]) for e in official.COCO_CATEGORIES]
    assert len(instance_categories()) == 80
    (person,) = keypoint_categories()
    assert (person["id"], person["name"], person["supercategory"]) == (1, "person", "person")
    assert tuple(person["keypoints"]) == official.COCO_PERSON_KEYPOINT_NAMES == KEYPOINT_NAMES
    bones = {frozenset(KEYPOINT_NAMES[end - 1] for end in bone) for bone in person["skeleton"]}
    rules = {frozenset(rule[:2]) for rule in official.KEYPOINT_CONNECTION_RULES}
    assert rules <= bones and len(bones) == 19
    metadata = official._get_builtin_metadata("coco_panoptic_separated")
    names = {e["id"]: e["name"] for e in panoptic_categories()}
    wanted = metadata["stuff_dataset_id_to_contiguous_id"]
    assert stuff_labels() == {names[i]: label for i, label in wanted.items() if i}


def test_same_seed_gives_same_bytes_whatever_the_count(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 3), ("c", 1)):
        generate_coco(tmp_path / name, counts={"val": count}, size=(48, 64), seed=7)
    first, again, fewer = (digests(tmp_path / name / "coco") for name in "abc")
    assert first == again and len(first) == 3 * 3 + 3 + 1
    images = {key: value for key, value in fewer.items() if "500001" in key}
    assert len(images) == 3 and images.items() <= first.items()
    entries = []
    for name in "ac":
        every = content(tmp_path / name, "instances", "val")["annotations"]
        entries.append([entry for entry in every if entry["image_id"] == 500_001])
    assert entries[0] == entries[1]


def test_other_seed_gives_other_images(tmp_path: Path) -> None:
    pictures = []
    for seed in (0, 1):
        tree = generate_coco(tmp_path / str(seed), counts={"val": 2}, size=(48, 64), seed=seed)
        pictures.append(digests(tree / "val2017"))
    assert pictures[0].keys() == pictures[1].keys()
    assert not set(pictures[0].values()) & set(pictures[1].values())


def test_segmentation_area_and_box_are_those_of_the_visible_pixels(instances: COCO) -> None:
    for index, image in enumerate(instances.dataset["images"]):
        generator = image_generator(SEED, "train", index)
        scene = draw_coco_scene(generator, size=SIZE, profile=image["profile"])
        entries = instances.imgToAnns[image["id"]]
        assert len(entries) == len(scene.objects)
        for number, entry in enumerate(entries, start=1):
            mask = scene.owner == number
            assert np.array_equal(instances.annToMask(entry), mask)
            assert entry["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            left, top, width, height = entry["bbox"]
            assert (left, left + width) == (columns.min(), columns.max() + 1)
            assert (top, top + height) == (rows.min(), rows.max() + 1)


def test_crowds_are_run_lengths_and_everything_else_polygons(instances: COCO) -> None:
    crowds = [entry for entry in instances.anns.values() if entry["iscrowd"]]
    assert crowds
    for entry in instances.anns.values():
        assert isinstance(entry["segmentation"], dict if entry["iscrowd"] else list)
    several = [e for e in instances.anns.values() if len(e["segmentation"]) > 1 - e["iscrowd"]]
    assert len(several) > len(crowds)  # what something in front divides


def test_empty_images_are_few_and_have_only_stuff(coco_root: Path, instances: COCO) -> None:
    empty = [i for i in instances.getImgIds() if not instances.imgToAnns[i]]
    assert 0 < len(empty) < 0.15 * COUNTS["train"]
    panoptic = content(coco_root, "panoptic", "train")["annotations"]
    for entry in panoptic:
        if entry["image_id"] in empty:
            assert entry["segments_info"]
            assert all(segment["category_id"] > 90 for segment in entry["segments_info"])


def test_profiles_differ_in_median_size(instances: COCO) -> None:
    sizes: dict[str, list[float]] = {"large": [], "small": [], "mixed": []}
    for entry in instances.anns.values():
        sizes[instances.imgs[entry["image_id"]]["profile"]].append(entry["area"] ** 0.5)
    median = {profile: np.median(values) for profile, values in sizes.items()}
    assert median["large"] > 1.5 * median["mixed"] > 1.5 * median["small"]


def test_keypoints_lie_on_the_person_or_behind_something(
    coco_root: Path, instances: COCO, people: COCO
) -> None:
    seen = {0: 0, 1: 0, 2: 0}
    for entry in people.anns.values():
        mask = instances.annToMask(instances.anns[entry["id"]]) > 0
        points = np.reshape(entry["keypoints"], (17, 3))
        assert entry["num_keypoints"] == (points[:, 2] > 0).sum()
        ids = segment_ids(coco_root / f"coco/panoptic_train2017/{entry['image_id']:012d}.png")
        own = np.unique(ids[mask])
        assert len(own) == 1
        stuff = pixels(coco_root / f"coco/panoptic_stuff_train2017/{entry['image_id']:012d}.png")
        for column, row, visibility in points[points[:, 2] > 0]:
            seen[int(visibility)] += 1
            assert (ids[row, column] == own[0]) == (visibility == 2)
            assert stuff[row, column] in (0, 255)  # hidden behind a thing or a pole
        outside = points[points[:, 2] == 0]
        seen[0] += len(outside)
        assert not outside.any()
    assert seen[2] > 100 and seen[1] > 3 and seen[0] > 0


@pytest.mark.parametrize("split", COUNTS)
def test_panoptic_pngs_agree_with_their_entries(coco_root: Path, split: str) -> None:
    data = content(coco_root, "panoptic", split)
    names = {entry["id"]: entry for entry in data["categories"]}
    things = opened(coco_root, "instances", split)
    for entry in data["annotations"]:
        ids = segment_ids(coco_root / f"coco/panoptic_{split}2017" / entry["file_name"])
        segments = {segment["id"]: segment for segment in entry["segments_info"]}
        assert set(np.unique(ids)) - {0} == set(segments)
        for number, segment in segments.items():
            rows, columns = np.nonzero(ids == number)
            assert segment["area"] == len(rows)
            left, top, width, height = segment["bbox"]
            assert (left, left + width) == (columns.min(), columns.max() + 1)
            assert (top, top + height) == (rows.min(), rows.max() + 1)
        own = [s for s in segments.values() if names[s["category_id"]]["isthing"]]
        keys = ("category_id", "area", "bbox", "iscrowd")
        wanted = [[a[key] for key in keys] for a in things.imgToAnns[entry["image_id"]]]
        assert [[s[key] for key in keys] for s in own] == wanted
        stuff = [s["category_id"] for s in segments.values() if s not in own]
        assert len(set(stuff)) == len(stuff)


def test_stuff_pngs_are_what_detectron2_would_make_of_the_panoptic_ones(coco_root: Path) -> None:
    """By the rule of datasets/prepare_panoptic_fpn.py, written out again."""
    stuff = [e["id"] for e in panoptic_categories() if not e["isthing"]]
    values = set()
    for entry in content(coco_root, "panoptic", "train")["annotations"]:
        ids = segment_ids(coco_root / "coco/panoptic_train2017" / entry["file_name"])
        wanted = np.full(ids.shape, 255)
        for segment in entry["segments_info"]:
            number = segment["category_id"]
            wanted[ids == segment["id"]] = 1 + stuff.index(number) if number in stuff else 0
        written = pixels(coco_root / "coco/panoptic_stuff_train2017" / entry["file_name"])
        assert written.dtype == np.uint8 and np.array_equal(written, wanted)
        values |= set(np.unique(written).tolist())
    assert {0, 255} < values and max(values - {255}) <= 53


def test_ground_truth_as_predictions_is_perfect(coco_root: Path) -> None:
    truth = opened(coco_root, "instances", "val")
    found = [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "segmentation": truth.annToRLE(entry),
            "bbox": entry["bbox"],
            "score": 0.9,
        }
        for entry in truth.anns.values()
        if not entry["iscrowd"]
    ]
    for task in ("bbox", "segm"):
        assert average_precision(truth, found, task) == 1.0


def test_keypoints_as_predictions_are_perfect(coco_root: Path) -> None:
    truth = opened(coco_root, "person_keypoints", "val")
    keys = ("image_id", "category_id", "keypoints")
    found = [
        {**{key: entry[key] for key in keys}, "score": 0.9}
        for entry in truth.anns.values()
        if entry["num_keypoints"]
    ]
    assert average_precision(truth, found, "keypoints") == 1.0


def average_precision(truth: COCO, found: list[dict], task: str) -> float:
    """AP by pycocotools, its printing kept away."""
    with contextlib.redirect_stdout(io.StringIO()):
        copies = [
            {k: v for k, v in item.items() if k != "bbox" or task == "bbox"} for item in found
        ]
        if task == "bbox":
            copies = [{k: v for k, v in item.items() if k != "segmentation"} for item in copies]
        evaluation = COCOeval(truth, truth.loadRes(copies), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


@pytest.mark.parametrize("split", COUNTS)
def test_loaders_of_detectron2_read_every_split(
    coco_root: Path, catalogues: None, split: str
) -> None:
    from detectron2.data import DatasetCatalog

    register_datasets(coco_root)
    name = f"coco_2017_{split}"
    records = DatasetCatalog.get(name)
    assert len(records) == COUNTS[split]
    assert all(Path(record["file_name"]).is_file() for record in records)
    classes = {item["category_id"] for record in records for item in record["annotations"]}
    assert classes <= {0, 2, 9, 11, 25, 32, 33, 46} and len(classes) >= 6
    people = DatasetCatalog.get(f"keypoints_{name}")
    assert len(people) == COUNTS[split]
    assert all(len(i["keypoints"]) == 51 for record in people for i in record["annotations"])
    separated = DatasetCatalog.get(f"{name}_panoptic_separated")
    assert all(Path(record["sem_seg_file_name"]).is_file() for record in separated)
    assert len(separated) == len(DatasetCatalog.get(f"{name}_panoptic")) == COUNTS[split]


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list:UserWarning")
def test_mapper_of_detectron2_takes_polygons_keypoints_and_stuff(
    coco_root: Path, catalogues: None
) -> None:
    """With the default MASK_FORMAT, which refuses run lengths of single objects."""
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog, DatasetMapper

    register_datasets(coco_root)
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    mapper = DatasetMapper(cfg, is_train=True)
    for record in DatasetCatalog.get("coco_2017_train_panoptic_separated"):
        mapped = mapper(record)
        wanted = sum(not item["iscrowd"] for item in record["annotations"])
        assert len(mapped["instances"]) == wanted
        assert mapped["sem_seg"].shape == mapped["image"].shape[1:]
    cfg.MODEL.KEYPOINT_ON = True
    cfg.DATASETS.TRAIN = ("keypoints_coco_2017_train",)
    mapper = DatasetMapper(cfg, is_train=True)
    records = [r for r in DatasetCatalog.get("keypoints_coco_2017_train") if r["annotations"]]
    assert mapper(records[0])["instances"].gt_keypoints.tensor.shape[1:] == (17, 3)


def test_split_of_none_is_not_written_and_second_run_does_nothing(tmp_path: Path) -> None:
    counts = {"train": 0, "val": 1}
    tree = generate_coco(tmp_path, counts=counts, size=(32, 48), profiles=["small"])
    assert not (tree / "train2017").exists()
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    drawn = []
    generate_coco(
        tmp_path, counts=counts, size=(32, 48), profiles=["small"],
        progress=lambda done, total: drawn.append(done),
    )  # fmt: skip
    assert not drawn and before == {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    with pytest.raises(ValueError, match="seed: 0 there, 1 asked for"):
        generate_coco(tmp_path, counts=counts, size=(32, 48), profiles=["small"], seed=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": {"train": -1}}, "got -1"),
        ({"counts": {"val": 0}}, "at least one image"),
        ({"counts": {"test": 1}}, "'test'"),
        ({"size": (31, 64)}, r"\(31, 64\)"),
        ({"seed": -4}, "got -4"),
        ({"profiles": ("tiny",)}, "tiny"),
        ({"profiles": ()}, r"got \(\)"),
    ],
)
def test_wrong_requests_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_coco(tmp_path, **{"counts": {"train": 1}, "size": (32, 32), **change})
    assert list(tmp_path.iterdir()) == []
