"""PASCAL VOC 2012 for semantic segmentation: a generated tree, and registration with Detectron2.

Detectron2 knows VOC for detection alone. Its labels are palette PNGs: read them with
`dynamic_routing.data.mapper.load_label_map`, never through ``convert("L")``, which gives the
palette's brightness.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .image_requests import image_requests
from .profiles import PROFILES
from .scenes import Scene, draw_scene
from .tree import (
    Progress,
    check_request,
    manifest_parameters,
    write_tree,
)

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
IGNORE_LABEL = 255
SPLITS = ("train", "val")
DEFAULT_COUNTS: Mapping[str, int] = {"train": 48, "val": 12}

_FROM_STREET = {
    "bicycle": "bicycle",
    "bus": "bus",
    "car": "car",
    "motorcycle": "motorbike",
    "person": "person",
    "rider": "person",
}
"""Classes that street scenes and VOC share; everything else in a scene is background."""


def voc_palette() -> list[tuple[int, int, int]]:
    """VOC's 256 colours: the index's bits, spread over the channels from the highest down."""
    colours = []
    for index in range(256):
        red = green = blue = 0
        for position in range(8):
            bits = index >> (3 * position)
            red |= (bits & 1) << (7 - position)
            green |= (bits >> 1 & 1) << (7 - position)
            blue |= (bits >> 2 & 1) << (7 - position)
        colours.append((red, green, blue))
    return colours


def generate_voc(
    root: str | Path,
    *,
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    size: tuple[int, int] = (256, 384),
    seed: int = 0,
    profiles: Sequence[str] = PROFILES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write ``root/VOC2012`` from street scenes, unless it is there already.

    Six of the 21 classes occur: background, bicycle, bus, car, motorbike and person. Image ids are
    ``<profile>_<split>_<number>``; see `dynamic_routing.data.cityscapes.generate_cityscapes` for
    what they depend on.

    Args:
        root: what DETECTRON2_DATASETS is to point to.
        counts: number of images of "train" and "val".
        size: (height, width) in pixels, each at least 32.
        seed: same seed, same bytes (with the same Pillow and NumPy).
        profiles: some of "large", "small", "mixed".
        overwrite: replace a generated tree that has other parameters.
        progress: called with (images written, images in all) after each image.

    Returns:
        The tree, ``root/VOC2012``.

    Raises:
        ValueError: for wrong arguments, or if the tree exists with other parameters or was not
            generated.
    """
    check_request(counts, splits=SPLITS, size=size, seed=seed, profiles=profiles)
    parameters = manifest_parameters("voc", counts, size=size, seed=seed, profiles=profiles)
    requests = image_requests(counts, seed=seed, profiles=profiles, progress=progress)

    def write(folder: Path) -> None:
        """Fill the tree."""
        names: dict[str, list[str]] = {split: [] for split in SPLITS}
        for request in requests:
            scene = draw_scene(request.generator, size=size, profile=request.profile)
            name = f"{request.profile}_{request.split}_{request.index:06d}"
            names[request.split].append(name)
            write_scene(folder, scene, name=name)
        write_image_sets(folder, {**names, "trainval": [*names["train"], *names["val"]]})

    target = Path(root).expanduser() / "VOC2012"
    write_tree(target, parameters=parameters, write=write, overwrite=overwrite)
    return target


@dataclass(frozen=True)
class VocLabels:
    """The label maps of one image.

    Attributes:
        classes: (H, W) uint8 index into VOC_CLASSES; 255 on borders and on crowds.
        objects: (H, W) uint8 number of the object from 1, 0 for background; 255 as above.
        names: class of object 1, 2, ...
    """

    classes: np.ndarray
    objects: np.ndarray
    names: tuple[str, ...]


def voc_labels(scene: Scene) -> VocLabels:
    """Class and object maps of a scene, with VOC's border of ignored pixels around each object."""
    height, width = scene.image.shape[:2]
    picture = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(picture)
    names: list[str] = []
    for item in scene.objects:
        label = _FROM_STREET.get(item.label)
        if label is not None and len(names) < IGNORE_LABEL - 1:
            names.append(label)
            pen.polygon(item.polygon, fill=len(names))
        else:
            pen.polygon(item.polygon, fill=IGNORE_LABEL if item.label.endswith("group") else 0)
    window = 2 * max(1, height // 150) + 1  # some 5 pixels at VOC's own size
    largest = np.asarray(picture.filter(ImageFilter.MaxFilter(window)))
    smallest = np.asarray(picture.filter(ImageFilter.MinFilter(window)))
    objects = np.where(largest != smallest, IGNORE_LABEL, np.asarray(picture)).astype(np.uint8)
    table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
    table[: len(names) + 1] = [0, *(VOC_CLASSES.index(name) for name in names)]
    return VocLabels(classes=table[objects], objects=objects, names=tuple(names))


def write_scene(folder: Path, scene: Scene, *, name: str) -> None:
    """Write picture, class map, object map and boxes of one image.

    Args:
        folder: the tree, which holds JPEGImages and the others.
        scene: the image.
        name: its id, which becomes the files' stem.
    """
    labels = voc_labels(scene)
    for part in ("JPEGImages", "SegmentationClass", "SegmentationObject", "Annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(folder / "JPEGImages" / f"{name}.jpg", quality=92)
    save_palette_png(folder / "SegmentationClass" / f"{name}.png", labels.classes)
    save_palette_png(folder / "SegmentationObject" / f"{name}.png", labels.objects)
    text = _annotation(labels, name=name)
    (folder / "Annotations" / f"{name}.xml").write_text(text)


def save_palette_png(path: Path, labels: np.ndarray) -> None:
    """Save an (H, W) uint8 map as an indexed PNG in VOC's colours."""
    picture = Image.fromarray(labels)
    picture.putpalette([channel for colour in voc_palette() for channel in colour])
    picture.save(path)


def _annotation(labels: VocLabels, *, name: str) -> str:
    """VOC's XML with the boxes of all visible objects (1-based, inclusive)."""
    height, width = labels.objects.shape
    lines = [
        "<annotation>", "\t<folder>VOC2012</folder>", f"\t<filename>{name}.jpg</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "\t<segmented>1</segmented>",
    ]  # fmt: skip
    for number, label in enumerate(labels.names, start=1):
        rows, columns = np.nonzero(labels.objects == number)
        if not rows.size:
            continue
        corners = (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)
        box = "".join(
            f"<{key}>{value}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        )
        lines.append(
            f"\t<object><name>{label}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>", ""])


def write_image_sets(folder: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Write the lists of ids, for segmentation and for Detectron2's own detection loader."""
    for task in ("Segmentation", "Main"):
        lists = folder / "ImageSets" / task
        lists.mkdir(parents=True, exist_ok=True)
        for split, ids in names.items():
            (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))


def load_voc_sem_seg(folder: str | Path, split: str, labels: str) -> list[dict[str, Any]]:
    """Read one split in Detectron2's standard form.

    Args:
        folder: the VOC2012 folder.
        split: name of a list in ImageSets/Segmentation.
        labels: folder of the label maps, SegmentationClass or SegmentationClassAug.

    Returns:
        One dictionary an image, in the list's order: file_name, sem_seg_file_name, image_id.

    Raises:
        FileNotFoundError: if the list does not exist.
    """
    base = Path(folder)
    listing = base / "ImageSets" / "Segmentation" / f"{split}.txt"
    # SBD's lists for trainaug hold paths in two columns: the id is the stem of the first
    ids = [Path(line.split()[0]).stem for line in listing.read_text().splitlines() if line.strip()]
    return [
        {
            "file_name": str(base / "JPEGImages" / f"{name}.jpg"),
            "sem_seg_file_name": str(base / labels / f"{name}.png"),
            "image_id": name,
        }
        for name in ids
    ]


def register_voc(root: str | Path | None = None) -> list[str]:
    """Register ``voc_2012_sem_seg_{train,val,trainval}``; trainaug if its labels exist.

    Nothing is read yet. Calling it again with another root moves the registration there.

    Args:
        root: folder that holds VOC2012; by default the present value of DETECTRON2_DATASETS.

    Returns:
        The registered names.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from .catalog import datasets_root, forget

    folder = (datasets_root() if root is None else Path(root).expanduser()) / "VOC2012"
    splits = dict.fromkeys(("train", "val", "trainval"), "SegmentationClass")
    if (folder / "SegmentationClassAug").is_dir():
        splits["trainaug"] = "SegmentationClassAug"
    for split, labels in splits.items():
        name = f"voc_2012_sem_seg_{split}"
        if name in DatasetCatalog:
            if MetadataCatalog.get(name).get("voc_root") == str(folder):
                continue
            forget(name)
        DatasetCatalog.register(name, partial(load_voc_sem_seg, folder, split, labels))
        MetadataCatalog.get(name).set(
            voc_root=str(folder),
            split=split,
            stuff_classes=list(VOC_CLASSES),
            stuff_colors=voc_palette()[: len(VOC_CLASSES)],
            ignore_label=IGNORE_LABEL,
            evaluator_type="sem_seg",
        )
    return [f"voc_2012_sem_seg_{split}" for split in splits]
