"""Data sets of the user's own."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from PIL import Image

from dynamic_routing.data.custom import register_custom_datasets

pytestmark = pytest.mark.usefixtures("catalogues")


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images in sub-folders with labels 0, 1 and 255, below DETECTRON2_DATASETS."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for name in ("a/one", "b/two"):
        save(tmp_path / f"mine/images/{name}.jpg", np.zeros((4, 6, 3), np.uint8))
        labels = np.zeros((4, 6), np.uint8)
        labels[0, :2] = (1, 255)
        save(tmp_path / f"mine/labels/{name}.png", labels)
    return tmp_path


def sem_seg(**changes) -> dict:
    entry = {
        "name": "mine_train",
        "type": "sem_seg",
        "images": "mine/images",
        "labels": "mine/labels",
        "classes": ["road", "car"],
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


COCO = {
    "images": [{"id": 1, "file_name": "a/one.jpg", "height": 4, "width": 6}],
    "categories": [{"id": 9, "name": "car"}, {"id": 2, "name": "road"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 9,
            "bbox": [0, 0, 2, 2],
            "area": 4,
            "iscrowd": 0,
            "keypoints": [1, 1, 2, 2, 1, 1],
            "num_keypoints": 2,
        }
    ],
}
COCO_TEXT = json.dumps(COCO)


@pytest.fixture
def coco(folder: Path) -> dict:
    (folder / "mine/boxes.json").write_text(COCO_TEXT)
    return {"name": "boxes", "type": "coco", "json": "mine/boxes.json", "images": "mine/images"}


def test_sem_seg_folders_are_read_back(folder: Path) -> None:
    entry = sem_seg(colors=[[128, 64, 128], [0, 0, 142]], ignore_label=255)
    assert register_custom_datasets([entry]) == ["mine_train"]
    records = DatasetCatalog.get("mine_train")
    assert [record["image_id"] for record in records] == ["a/one", "b/two"]
    assert records[0]["sem_seg_file_name"] == str(folder / "mine/labels/a/one.png")
    metadata = MetadataCatalog.get("mine_train")
    assert metadata.stuff_classes == ["road", "car"]
    assert metadata.stuff_colors == [(128, 64, 128), (0, 0, 142)]
    assert (metadata.evaluator_type, metadata.ignore_label) == ("sem_seg", 255)


def test_coco_file_is_read_back(coco: dict) -> None:
    register_custom_datasets([{**coco, "classes": ["road", "car"]}])
    assert MetadataCatalog.get("boxes").thing_classes == ["road", "car"]
    (record,) = DatasetCatalog.get("boxes")
    assert record["annotations"][0]["category_id"] == 1
    assert MetadataCatalog.get("boxes").evaluator_type == "coco"


def test_suffixes_pair_files_of_one_folder(tmp_path: Path) -> None:
    save(tmp_path / "x_image.png", np.zeros((4, 4, 3), np.uint8))
    save(tmp_path / "x_label.png", np.zeros((4, 4), np.uint8))
    entry = sem_seg(
        images=str(tmp_path),
        labels=str(tmp_path),
        image_suffix="_image.png",
        label_suffix="_label.png",
    )
    register_custom_datasets([entry])
    assert DatasetCatalog.get("mine_train")[0]["image_id"] == "x"


def test_same_entry_twice_is_harmless(folder: Path, coco: dict) -> None:
    register_custom_datasets([sem_seg(), coco])
    DatasetCatalog.get("boxes")
    assert register_custom_datasets([sem_seg(), coco]) == ["mine_train", "boxes"]


def test_relative_paths_fall_back_to_the_working_directory(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path_factory.mktemp("elsewhere")))
    monkeypatch.chdir(folder)
    register_custom_datasets([sem_seg()])
    assert len(DatasetCatalog.get("mine_train")) == 2


def test_no_entries_register_nothing() -> None:
    assert register_custom_datasets([]) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "voc"}, r"type must be one of .* got 'voc'"),
        ({"type": None}, "got 'None'"),
        ({"labels": None}, "missing or empty: labels"),
        ({"classes": []}, "missing or empty: classes"),
        ({"clases": ["a"]}, "unknown key 'clases'; did you mean 'classes'"),
        ({"zzz": 1}, "unknown key 'zzz'; known are name, type"),
        ({"images": 5}, "images must be a str, got 5"),
        ({"classes": "road"}, "classes must be a list of names, got 'road'"),
        ({"classes": ["road", "road"]}, "more than once: road"),
        ({"colors": [[0, 0, 0]]}, "2 classes, but 1 colors"),
        ({"colors": [[0, 0, 0], [0, 0, 300]]}, "0..255"),
        ({"ignore_label": 300}, "got 300"),
        ({"images": "mine/pictures"}, "images is no folder: .*mine/pictures"),
        ({"image_suffix": ".bmp"}, "no image .*bmp"),
        ({"classes": ["road"]}, r"one.png holds \[1\], but labels must be 0..0 or 255"),
        ({"ignore_label": 254}, r"one.png holds \[255\]"),
        ({"name": "coco_2017_val"}, "'coco_2017_val' is already taken"),
    ],
)
def test_wrong_entries_are_explained(folder: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_custom_datasets([sem_seg(**changes)])
    assert "mine_train" not in DatasetCatalog


def test_missing_path_comes_with_the_variable(folder: Path) -> None:
    with pytest.raises(ValueError, match=f"DETECTRON2_DATASETS is '{folder}'"):
        register_custom_datasets([sem_seg(labels="nowhere")])


def test_entry_that_is_no_dictionary_is_named() -> None:
    with pytest.raises(ValueError, match=r"DATASETS.CUSTOM\[0\] must be a dictionary, got 'x'"):
        register_custom_datasets(["x"])  # type: ignore[list-item]


def test_first_three_unmatched_files_are_listed(folder: Path) -> None:
    for number in range(5):
        save(folder / f"mine/images/c{number}.jpg", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match=r"5 of 7 images without label .*c0.*c1.*c2.jpg, \.\.\."):
        register_custom_datasets([sem_seg()])


def test_labels_without_images_are_listed(folder: Path) -> None:
    save(folder / "mine/labels/extra.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(ValueError, match=r"1 of 3 labels without image in .*extra.png$"):
        register_custom_datasets([sem_seg()])


def test_label_of_another_size_is_named(folder: Path) -> None:
    save(folder / "mine/labels/a/one.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"one.png is \(4, 5\), but .*one.jpg is \(4, 6\)"):
        register_custom_datasets([sem_seg()])


def test_two_images_with_one_name_are_refused(folder: Path) -> None:
    save(folder / "mine/images/a/one.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="one.jpg and .*one.png have one name"):
        register_custom_datasets([sem_seg()])


def test_name_with_other_values_is_refused(folder: Path) -> None:
    register_custom_datasets([sem_seg()])
    with pytest.raises(ValueError, match="registered with other values of classes"):
        register_custom_datasets([sem_seg(classes=["road", "truck"])])


def test_name_given_twice_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="'mine_train' more than once"):
        register_custom_datasets([sem_seg(), sem_seg()])


def test_one_wrong_entry_registers_none(folder: Path) -> None:
    with pytest.raises(ValueError, match="unknown"):
        register_custom_datasets([sem_seg(), sem_seg(name="other", spelling=1)])
    assert "mine_train" not in DatasetCatalog


def test_coco_classes_must_be_those_of_the_file(coco: dict) -> None:
    with pytest.raises(ValueError, match=r"1 classes \['car'\] in the config, but 2 .*boxes.json"):
        register_custom_datasets([{**coco, "classes": ["car"]}])


KEYPOINTS = {"keypoint_names": ["l", "r"], "keypoint_flip_map": [["l", "r"]]}


def test_keypoints_are_registered_for_detectron2(coco: dict) -> None:
    register_custom_datasets([{**coco, **KEYPOINTS}])
    assert register_custom_datasets([{**coco, **KEYPOINTS}]) == ["boxes"]
    metadata = MetadataCatalog.get("boxes")
    assert metadata.keypoint_names == ["l", "r"]
    assert create_keypoint_hflip_indices(["boxes"]) == [1, 0]
    (record,) = DatasetCatalog.get("boxes")
    assert record["annotations"][0]["keypoints"] == [1.5, 1.5, 2, 2.5, 1.5, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoint_flip_map": None}, "belong together, got only keypoint_names"),
        ({"keypoint_names": ["l", "l"]}, "keypoint_names must be different names"),
        ({"keypoint_names": "lr"}, "keypoint_names must be different names, got 'lr'"),
        ({"keypoint_names": []}, "keypoint_names must be different names"),
        ({"keypoint_flip_map": ["lr"]}, "keypoint_flip_map must be pairs of names"),
        ({"keypoint_flip_map": [["l", "x"]]}, "must name keypoints of keypoint_names"),
        ({"keypoint_flip_map": [["l", "r"], ["r", "l"]]}, "each once at most"),
        ({"keypoint_names": ["l", "m", "r"]}, "keypoints must be 3 x 3 numbers, got 6"),
    ],
)
def test_wrong_keypoints_are_explained(coco: dict, changes: dict, message: str) -> None:
    entry = {**coco, **KEYPOINTS, **changes}
    with pytest.raises(ValueError, match=message):
        register_custom_datasets([{k: v for k, v in entry.items() if v is not None}])
    assert "boxes" not in DatasetCatalog


def test_broken_image_is_named(folder: Path) -> None:
    (folder / "mine/images/a/one.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="a/one.jpg cannot be read: no image, or a damaged one"):
        register_custom_datasets([sem_seg()])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ('{"images": []}', "lists no images"),
        (COCO_TEXT.replace("one.jpg", "gone.jpg"), "1 of 1 images are not in .*gone.jpg"),
        (COCO_TEXT.replace("[0, 0, 2, 2]", "[9, 0, 2, 2]"), "annotation 1 .*reaches 5 pixels out"),
    ],
)
def test_broken_coco_files_are_explained(
    folder: Path, coco: dict, content: str, message: str
) -> None:
    (folder / "mine/boxes.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        register_custom_datasets([coco])
