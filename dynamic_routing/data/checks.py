"""Finding wrong data set paths when a program starts, instead of in the middle of it."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from .catalog import VARIABLE, datasets_root, describe_root
from .custom import ENTRY, check_entry_files
from .image_folder import IMAGENET_TREE, class_names, is_classification, load_image_folder

CITYSCAPES_TREE = """\
  cityscapes/
    leftImg8bit/{train,val,test}/<city>/<city>_<sequence>_<frame>_leftImg8bit.png
    gtFine/{train,val,test}/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png
                                                         ..._gtFine_instanceIds.png
                                                         ..._gtFine_polygons.json
                                                         ..._gtFine_labelTrainIds.png"""
VOC_TREE = """\
  VOC2012/
    JPEGImages/<image id>.jpg
    SegmentationClass/<image id>.png          (SegmentationClassAug for trainaug)
    ImageSets/Segmentation/{train,val,trainval}.txt"""
COCO_TREE = """\
  coco/
    annotations/{instances,person_keypoints}_{train,val}2017.json
    {train,val}2017/<image id>.jpg"""

TRAIN_IDS_COMMAND = (
    "CITYSCAPES_DATASET={root} python -m cityscapesscripts.preparation.createTrainIdLabelImgs"
)
_IMAGE_SUFFIX = "_leftImg8bit.png"
_TRUTH_SUFFIXES = {
    "sem_seg": ("_polygons.json", "_instanceIds.png", "_labelIds.png", "_labelTrainIds.png"),
    "instance_seg": ("_polygons.json", "_instanceIds.png", "_labelIds.png"),
}
_PATH_KEYS = (
    "image_dir", "gt_dir", "image_root", "sem_seg_root", "json_file", "panoptic_root",
    "panoptic_json", "dirname",
)  # fmt: skip


class DatasetError(ValueError):
    """Data that a program needs is not where it looks."""


def check_datasets(names: Sequence[str]) -> None:
    """Check that data sets are registered, present and complete; reads no image.

    Args:
        names: registered names, such as ``cfg.DATASETS.TRAIN + cfg.DATASETS.TEST``.

    Raises:
        DatasetError: with all problems in one message: names that are not registered (with similar
            ones), paths and files that are missing (with the value of DETECTRON2_DATASETS and the
            expected tree), empty data sets.
    """
    problems: list[str] = []
    trees: list[str] = []
    for name in dict.fromkeys(names):
        found = list(_problems(name))
        problems.extend(f"- {name}: {text}" for text in found)
        tree = _expected_tree(name)
        if found and tree and tree not in trees:
            trees.append(tree)
    if not problems:
        return
    lines = [f"data sets cannot be read ({describe_root()}):", *problems]
    if trees:
        lines += [f"expected under {datasets_root().absolute()}:", *trees]
    raise DatasetError("\n".join(lines))


def _expected_tree(name: str) -> str:
    """What a data set's folder should look like; empty where no convention exists."""
    if name.startswith("cityscapes_"):
        return CITYSCAPES_TREE
    if name.startswith("voc_2012_sem_seg"):
        return VOC_TREE
    if name.startswith("imagenet_"):
        return IMAGENET_TREE
    return COCO_TREE if name.startswith("coco_") else ""


def _problems(name: str) -> Iterator[str]:
    """What is wrong with one data set."""
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
        similar = f"did you mean {' or '.join(close)}?"
        hint = similar if close else "own data sets go into DATASETS.CUSTOM"
        yield f"no data set of this name is registered; {hint}"
        return
    metadata = MetadataCatalog.get(name)
    entry = metadata.get(ENTRY)
    if entry is not None:
        try:
            check_entry_files(entry)
        except ValueError as error:
            yield str(error).removeprefix(f"data set {name!r}: ")
        return
    missing = list(_missing_paths(metadata))
    yield from missing
    if missing:
        return
    if is_classification(name):
        yield from _image_folder_problems(name)
    elif name.startswith("cityscapes_fine_") and metadata.get("gt_dir"):
        yield from _cityscapes_problems(name, metadata)
    elif metadata.get("voc_root"):
        yield from _voc_problems(Path(metadata.voc_root), name)
    elif not metadata.get("json_file") and not DatasetCatalog.get(name):
        yield "is empty"


def _image_folder_problems(name: str) -> Iterator[str]:
    """What is wrong with the class folders of a classification data set."""
    try:
        load_image_folder(MetadataCatalog.get(name).image_root, class_names(name))
    except ValueError as error:
        yield str(error)


def _missing_paths(metadata: Metadata) -> Iterator[str]:
    """Paths in a data set's metadata that do not exist."""
    for key in _PATH_KEYS:
        value = metadata.get(key)
        if not isinstance(value, str) or "://" in value or Path(value).exists():
            continue
        path, root = Path(value).absolute(), datasets_root().absolute()
        late = "" if path.is_relative_to(root) else f" (not under {root}: set {VARIABLE} earlier)"
        yield f"{path} does not exist{late}"


def _cityscapes_problems(name: str, metadata: Metadata) -> Iterator[str]:
    """Missing or foreign files of one Cityscapes split."""
    image_dir, truth_dir = Path(metadata.image_dir), Path(metadata.gt_dir)
    files = sorted(path for path in image_dir.glob("*/*"))
    foreign = [path for path in files if not path.name.endswith(_IMAGE_SUFFIX)]
    foreign += [path for path in image_dir.iterdir() if not path.is_dir()]
    if foreign:  # Detectron2 stops at the first, with an assertion
        yield f"{foreign[0].absolute()} is in the way: only <city>/*{_IMAGE_SUFFIX} may be there"
    images = [path for path in files if path.name.endswith(_IMAGE_SUFFIX)]
    if not images:
        yield f"is empty: no <city>/*{_IMAGE_SUFFIX} in {image_dir.absolute()}"
    task = "sem_seg" if "sem_seg" in name else "instance_seg"
    for suffix in _TRUTH_SUFFIXES[task]:
        wanted = [
            truth_dir / path.parent.name / path.name.replace(_IMAGE_SUFFIX, f"_gtFine{suffix}")
            for path in images
        ]
        absent = [path for path in wanted if not path.is_file()]
        if absent:
            text = f"{len(absent)} of {len(images)} *_gtFine{suffix} missing, first {absent[0]}"
            if suffix == "_labelTrainIds.png":
                root = truth_dir.absolute().parent.parent
                text += (
                    f"; they are made by: {TRAIN_IDS_COMMAND.format(root=shlex.quote(str(root)))}"
                )
            yield text


def _voc_problems(root: Path, name: str) -> Iterator[str]:
    """Missing lists and files of one VOC split."""
    listing = root / "ImageSets" / "Segmentation" / f"{MetadataCatalog.get(name).split}.txt"
    if not listing.is_file():
        yield f"{listing.absolute()} does not exist"
        return
    records = DatasetCatalog.get(name)
    if not records:
        yield f"is empty: {listing.absolute()} lists no image"
    for key in ("file_name", "sem_seg_file_name"):
        absent = [record[key] for record in records if not Path(record[key]).is_file()]
        if absent:
            folder = Path(absent[0]).parent.name
            yield f"{len(absent)} of {len(records)} files of {folder} missing, first {absent[0]}"
