"""Finding wrong data set paths when a program starts, instead of in the middle of it."""

from __future__ import annotations

import difflib
import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from .catalog import VARIABLE, datasets_root, describe_root
from .coco_checks import CocoReport, coco_problems, coco_report, described
from .custom import ENTRY, check_entry_files
from .image_folder import IMAGENET_TREE, class_names, is_classification, load_image_folder

logger = logging.getLogger(__name__)

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
    annotations/{instances,person_keypoints,panoptic}_{train,val}2017.json
    {train,val}2017/<image id>.jpg
    panoptic_{train,val}2017/<image id>.png
    panoptic_stuff_{train,val}2017/<image id>.png   (Detectron2's prepare_panoptic_fpn.py)"""

TRAIN_IDS_COMMAND = (
    "CITYSCAPES_DATASET={root} python -m cityscapesscripts.preparation.createTrainIdLabelImgs"
)
COCO_TYPES = ("coco", "coco_panoptic_seg")
"""``evaluator_type`` of data sets whose ``json_file`` is in COCO's format."""

_RELEASED = re.compile(r"(keypoints_)?coco_20(14|17)_")
"""Data sets that COCO released, whose few odd annotations are logged instead of refused."""

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

    Annotation files in COCO's format are read, once for each state of a file, and checked entry by
    entry. Boxes and polygons that are empty or stick out of their image are refused; in the data
    sets that COCO released, and only there, they are logged, since Detectron2 clips or drops them.

    Args:
        names: registered names, such as ``cfg.DATASETS.TRAIN + cfg.DATASETS.TEST``.

    Raises:
        DatasetError: with all problems in one message: names that are not registered (with similar
            ones), paths and files that are missing (with the value of DETECTRON2_DATASETS and the
            expected tree), empty data sets, and what `coco_problems` finds.
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
    return COCO_TREE if name.startswith(("coco_", "keypoints_coco_")) else ""


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
    yield from missing or _content_problems(name, metadata)


def _content_problems(name: str, metadata: Metadata) -> Iterator[str]:
    """What is wrong with a data set whose paths are there, by its layout."""
    if is_classification(name):
        return _image_folder_problems(name)
    if name.startswith("cityscapes_fine_") and metadata.get("gt_dir"):
        return _cityscapes_problems(name, metadata)
    if metadata.get("voc_root"):
        return _voc_problems(Path(metadata.voc_root), name)
    if has_coco_file(metadata):
        return _coco_problems(name, metadata)
    empty = not metadata.get("json_file") and not DatasetCatalog.get(name)
    return iter(["is empty"] if empty else [])


def has_coco_file(metadata: Metadata) -> bool:
    """Whether a data set's annotations are a COCO file on this machine."""
    path = metadata.get("json_file")
    if metadata.get("evaluator_type") not in COCO_TYPES or not isinstance(path, str):
        return False
    return "://" not in path


def dataset_report(metadata: Metadata) -> CocoReport:
    """What the COCO file of a data set holds; see `has_coco_file`."""
    return coco_report(metadata.json_file, keypoints=metadata.get("keypoint_names"))


def _coco_problems(name: str, metadata: Metadata) -> Iterator[str]:
    """What is wrong with a COCO file and what belongs to it."""
    path, released = metadata.json_file, bool(_RELEASED.match(name))
    problems = coco_problems(
        path,
        metadata.image_root,
        keypoints=metadata.get("keypoint_names"),
        strict=not released,
    )
    if problems:
        yield described(path, problems)
        return
    report = dataset_report(metadata)
    if released and report.num_oddities:
        logger.warning(
            "%s: %d odd annotations, which Detectron2 clips or drops; the first: %s",
            *(name, report.num_oddities, report.oddities[0]),
        )
    separated = bool(metadata.get("sem_seg_root"))
    if separated or not metadata.get("panoptic_json"):
        yield from _category_problems(name, metadata, report)
    if separated:
        yield from _label_map_problems(metadata, report)


def _category_problems(name: str, metadata: Metadata, report: CocoReport) -> Iterator[str]:
    """Categories of a file that are not those which its data set is registered with."""
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    for what, found, wanted in (
        ("names", list(report.classes), metadata.get("thing_classes")),
        ("ids", list(report.category_ids), None if ids is None else sorted(ids)),
    ):
        if wanted is None or found == list(wanted):
            continue
        other = next((pair for pair in zip(found, wanted) if pair[0] != pair[1]), None)
        first = f"; the first other is {other[0]!r} for {other[1]!r}" if other else ""
        yield (
            f"{metadata.json_file} has {len(found)} categories, whose {what} are not those of the "
            f"{len(wanted)} that {name} is registered with{first}"
        )


def _label_map_problems(metadata: Metadata, report: CocoReport) -> Iterator[str]:
    """Images without the label map that Panoptic FPN trains on."""
    root = Path(metadata.sem_seg_root)
    foreign = [name for name in report.file_names if "/" in name or not name.endswith(".jpg")]
    if foreign:  # Detectron2 pairs <id>.jpg with <id>.png and stops with a KeyError
        yield f"{len(foreign)} images are no <name>.jpg beside each other, first {foreign[0]}"
        return
    wanted = [root / f"{name.removesuffix('.jpg')}.png" for name in report.file_names]
    absent = [path for path in wanted if not path.is_file()]
    if absent:
        yield f"{len(absent)} of {len(wanted)} label maps missing, first {absent[0]}"


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
