"""The user's own data sets, registered from plain dictionaries (``DATASETS.CUSTOM``).

    - name: my_train
      type: sem_seg
      images: my/images/train        # folders, searched with their sub-folders
      labels: my/labels/train        # one class index a pixel, grey or palette PNG
      classes: [road, car]
    - name: my_boxes
      type: coco
      json: my/boxes.json
      images: my/images/train
    - name: my_hands
      type: coco
      json: my/hands.json
      images: my/images/train
      keypoint_names: [wrist, left_thumb, right_thumb]
      keypoint_flip_map: [[left_thumb, right_thumb]]
    - name: my_classes
      type: image_folder
      images: my/classes/train       # <class>/<image>

Relative paths are looked for under DETECTRON2_DATASETS, then under the working directory.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from .catalog import datasets_root, describe_root
from .coco_checks import coco_problems, coco_report, described
from .custom_files import check_label_sample, list_pairs, load_custom_sem_seg
from .image_folder import class_folders, load_image_folder, register_image_folder

IGNORE_LABEL = 255
ENTRY = "custom_entry"
"""Name in the metadata under which a registered entry is kept."""

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "sem_seg": ("name", "type", "images", "labels", "classes"),
    "coco": ("name", "type", "json", "images"),
    "image_folder": ("name", "type", "images"),
}
_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "sem_seg": ("ignore_label", "colors", "image_suffix", "label_suffix"),
    "coco": ("classes", "keypoint_names", "keypoint_flip_map"),
    "image_folder": ("classes",),
}

_PATHS = ("images", "labels", "json")
_TYPES: Mapping[str, type] = {
    "classes": Sequence,
    "colors": Sequence,
    "ignore_label": int,
    "keypoint_names": Sequence,
    "keypoint_flip_map": Sequence,
}
"""Types of the keys' values; str where nothing is said."""


def register_custom_datasets(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Check all entries and their files, then register them with Detectron2.

    Registering the same entry again does nothing. Nothing is registered if one entry is wrong.

    Args:
        entries: dictionaries with ``name`` and ``type``, and

            for "sem_seg": images and labels (folders), classes (names), optionally ignore_label
            (255), colors (one [r, g, b] a class), image_suffix (any image by default) and
            label_suffix (".png"); image and label belong together if their paths without the
            suffixes are equal;

            for "coco": json, images (folder), optionally classes, which must be those of the file,
            in order; for keypoints keypoint_names, in the order of the file, and keypoint_flip_map,
            the pairs of names that change places in a mirror image ([] for none);

            for "image_folder": images (a folder with one sub-folder a class), optionally classes,
            which must be those of the sub-folders, in the order of their ids.

    Returns:
        The names.

    Raises:
        ValueError: for an unknown type or key, a missing key, a name that something else has,
            classes that do not fit, a missing path, images without labels or labels without images,
            a label outside the classes, or anything that `coco_problems` finds.
    """
    prepared = [_prepare(entry, number) for number, entry in enumerate(entries)]
    names = [entry["name"] for entry in prepared]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"DATASETS.CUSTOM names {', '.join(map(repr, twice))} more than once")
    fresh = [entry for entry in prepared if not _is_registered(entry)]
    classes = {entry["name"]: check_entry_files(entry) for entry in fresh}
    for entry in fresh:
        _register(entry, classes[entry["name"]])
    return names


def check_entry_files(entry: Mapping[str, Any]) -> list[str]:
    """Check what a complete entry (from the metadata of a registered data set) points to.

    Args:
        entry: with absolute paths and all optional keys.

    Returns:
        The class names; for "coco" those of the file.

    Raises:
        ValueError: as `register_custom_datasets`.
    """
    name = entry["name"]
    for key in _PATHS:
        if key not in entry:
            continue
        path = Path(entry[key])
        if not (path.is_file() if key == "json" else path.is_dir()):
            kind = "file" if key == "json" else "folder"
            raise ValueError(f"data set {name!r}: {key} is no {kind}: {path} ({describe_root()})")
    if entry["type"] == "coco":
        return _check_coco(entry)
    if entry["type"] == "image_folder":
        return _check_image_folder(entry)
    pairs = list_pairs(entry)
    check_label_sample(
        pairs, classes=len(entry["classes"]), ignore_label=entry["ignore_label"], name=name
    )
    return list(entry["classes"])


def _prepare(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Check the keys of an entry and fill in defaults and absolute paths."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"DATASETS.CUSTOM[{number}] must be a dictionary, got {entry!r}")
    title = f"DATASETS.CUSTOM[{number}] ({entry.get('name', 'without name')})"
    kind = str(entry.get("type"))
    if kind not in _NEEDED:
        raise ValueError(f"{title}: type must be one of {tuple(_NEEDED)}, got {kind!r}")
    known = (*_NEEDED[kind], *_OPTIONAL[kind])
    for key in entry:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise ValueError(f"{title}: unknown key {key!r}; {hint}")
        wanted = _TYPES.get(key, str)
        if not isinstance(entry[key], wanted):
            raise ValueError(f"{title}: {key} must be a {wanted.__name__}, got {entry[key]!r}")
    missing = [key for key in _NEEDED[kind] if not entry.get(key)]
    if missing:
        raise ValueError(f"{title}: missing or empty: {', '.join(missing)}")
    filled = {**entry}
    if kind == "sem_seg":
        defaults = {"ignore_label": IGNORE_LABEL, "image_suffix": "", "label_suffix": ".png"}
        filled = {**defaults, **entry}
    for key in _PATHS:
        if key in filled:
            filled[key] = str(_resolve(filled[key]))
    _check_classes(filled, title)
    _check_keypoints(filled, title)
    return filled


def _check_classes(entry: dict[str, Any], title: str) -> None:
    """Check class names, colours and the ignored label; turns them into lists of plain types."""
    if "classes" not in entry:
        return
    classes = entry["classes"]
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f"{title}: classes must be a list of names, got {classes!r}")
    entry["classes"] = list(classes)
    twice = sorted({name for name in classes if entry["classes"].count(name) > 1})
    if twice:
        raise ValueError(f"{title}: classes named more than once: {', '.join(twice)}")
    if "colors" in entry:
        entry["colors"] = [list(colour) for colour in entry["colors"]]
        if len(entry["colors"]) != len(classes):
            raise ValueError(f"{title}: {len(classes)} classes, but {len(entry['colors'])} colors")
        if any(len(c) != 3 or not all(0 <= v <= 255 for v in c) for c in entry["colors"]):
            raise ValueError(f"{title}: colors must be [r, g, b] in 0..255, got {entry['colors']}")
    if not 0 <= entry.get("ignore_label", IGNORE_LABEL) <= 255:
        raise ValueError(f"{title}: ignore_label must be 0..255, got {entry['ignore_label']}")


def _check_keypoints(entry: dict[str, Any], title: str) -> None:
    """Check names and mirror pairs of keypoints; turns them into lists of plain types."""
    keys = ("keypoint_names", "keypoint_flip_map")
    given = [key for key in keys if key in entry]
    if not given:
        return
    if len(given) == 1:
        raise ValueError(f"{title}: {' and '.join(keys)} belong together, got only {given[0]}")
    names, pairs = entry["keypoint_names"], entry["keypoint_flip_map"]
    if not _are_names(names) or not names:
        raise ValueError(f"{title}: keypoint_names must be different names, got {names!r}")
    if not all(_are_names(pair) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"{title}: keypoint_flip_map must be pairs of names, got {pairs!r}")
    mirrored = [name for pair in pairs for name in pair]
    if not _are_names(mirrored) or not {*mirrored} <= {*names}:
        raise ValueError(
            f"{title}: keypoint_flip_map must name keypoints of keypoint_names, each once at most, "
            f"got {pairs!r}"
        )
    entry["keypoint_names"] = list(names)
    entry["keypoint_flip_map"] = [list(pair) for pair in pairs]


def _are_names(values: object) -> bool:
    """Whether a value is a list of different texts."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return False
    return all(isinstance(value, str) for value in values) and len({*values}) == len(values)


def _resolve(path: str) -> Path:
    """An absolute path: as it is, under the data sets' root, or under the working directory."""
    given = Path(path).expanduser()
    under_root = (datasets_root() / given).absolute()
    if given.is_absolute() or under_root.exists() or not given.absolute().exists():
        return under_root  # an absolute path replaces the root
    return given.absolute()


def _is_registered(entry: Mapping[str, Any]) -> bool:
    """Whether this very entry is registered; raises if the name is taken by something else."""
    name = entry["name"]
    if name not in DatasetCatalog:
        return False
    present = MetadataCatalog.get(name).get(ENTRY)
    if present is None:
        raise ValueError(f"data set name {name!r} is already taken, not by DATASETS.CUSTOM")
    if present != entry:
        keys = sorted({k for k in {*present, *entry} if present.get(k) != entry.get(k)})
        raise ValueError(f"data set {name!r} is registered with other values of {', '.join(keys)}")
    return True


def _check_coco(entry: Mapping[str, Any]) -> list[str]:
    """Class names of a COCO file in order of their ids, which are those that Detectron2 uses."""
    name, path, keypoints = entry["name"], entry["json"], entry.get("keypoint_names")
    problems = coco_problems(path, entry["images"], keypoints=keypoints)
    if problems:
        raise ValueError(f"data set {name!r}: {described(path, problems)}")
    classes = list(coco_report(path, keypoints=keypoints).classes)
    wanted = entry.get("classes", classes)
    if wanted != classes:
        raise ValueError(
            f"data set {name!r}: {len(wanted)} classes {wanted} in the config, but {len(classes)} "
            f"{classes} in {path}"
        )
    return classes


def _check_image_folder(entry: Mapping[str, Any]) -> list[str]:
    """Class names of a folder of class folders, each of which must hold an image."""
    try:
        classes = list(entry.get("classes") or class_folders(entry["images"]))
        load_image_folder(entry["images"], classes)
    except ValueError as error:
        raise ValueError(f"data set {entry['name']!r}: {error}") from None
    return classes


def _register(entry: dict[str, Any], classes: list[str]) -> None:
    """Put a checked entry into Detectron2's catalogues."""
    name = entry["name"]
    if entry["type"] == "coco":
        metadata: dict[str, Any] = {"thing_classes": classes, ENTRY: entry}
        if "keypoint_names" in entry:
            metadata["keypoint_names"] = entry["keypoint_names"]
            pairs = entry["keypoint_flip_map"]
            metadata["keypoint_flip_map"] = [(left, right) for left, right in pairs]
        register_coco_instances(name, metadata, entry["json"], entry["images"])
        return
    if entry["type"] == "image_folder":
        register_image_folder(name, entry["images"], classes=classes, **{ENTRY: entry})
        return
    DatasetCatalog.register(name, partial(load_custom_sem_seg, entry))
    MetadataCatalog.get(name).set(
        stuff_classes=classes,
        ignore_label=entry["ignore_label"],
        image_root=entry["images"],
        sem_seg_root=entry["labels"],
        evaluator_type="sem_seg",
        **{ENTRY: entry},
    )
    if "colors" in entry:
        MetadataCatalog.get(name).set(stuff_colors=[tuple(c) for c in entry["colors"]])
