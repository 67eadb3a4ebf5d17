"""Generated street scenes as a Cityscapes tree, file by file as the real one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .canvas import SceneObject
from .image_requests import image_requests
from .profiles import PROFILES
from .scenes import Scene, draw_scene
from .tree import (
    Progress,
    check_request,
    manifest_parameters,
    write_tree,
)

SPLITS = ("train", "val", "test")
DEFAULT_COUNTS: Mapping[str, int] = {"train": 48, "val": 12}


def generate_cityscapes(
    root: str | Path,
    *,
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    size: tuple[int, int] = (256, 512),
    seed: int = 0,
    profiles: Sequence[str] = PROFILES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write ``root/cityscapes`` with leftImg8bit and gtFine, unless it is there already.

    Image i of a split has profile ``profiles[i % len(profiles)]``, which is also the name of its
    city: the hidden subset can be read from the path. It depends on seed, split, i, size and
    profile alone, not on the counts.

    Args:
        root: what DETECTRON2_DATASETS is to point to.
        counts: number of images of "train", "val" and "test".
        size: (height, width) in pixels, each at least 32.
        seed: same seed, same bytes (with the same Pillow and NumPy).
        profiles: some of "large", "small", "mixed".
        overwrite: replace a generated tree that has other parameters.
        progress: called with (images written, images in all) after each image.

    Returns:
        The tree, ``root/cityscapes``.

    Raises:
        ValueError: for wrong arguments, or if the tree exists with other parameters or was not
            generated.
    """
    check_request(counts, splits=SPLITS, size=size, seed=seed, profiles=profiles)
    parameters = manifest_parameters("cityscapes", counts, size=size, seed=seed, profiles=profiles)
    requests = image_requests(counts, seed=seed, profiles=profiles, progress=progress)

    def write(folder: Path) -> None:
        """Fill the tree."""
        for request in requests:
            scene = draw_scene(request.generator, size=size, profile=request.profile)
            write_scene(folder, scene, split=request.split, index=request.index)

    target = Path(root).expanduser() / "cityscapes"
    write_tree(target, parameters=parameters, write=write, overwrite=overwrite)
    return target


def write_scene(folder: Path, scene: Scene, *, split: str, index: int) -> None:
    """Write the five files of one image.

    Args:
        folder: the tree, which holds leftImg8bit and gtFine.
        scene: the image; its profile becomes the city.
        split: "train", "val" or "test".
        index: number of the image, the six digits after the city's name.
    """
    stem = f"{scene.profile}_{index:06d}_000019"
    image_folder = folder / "leftImg8bit" / split / scene.profile
    truth_folder = folder / "gtFine" / split / scene.profile
    for path in (image_folder, truth_folder):
        path.mkdir(parents=True, exist_ok=True)
    height, width = scene.image.shape[:2]
    # compress_level 1: noisy pictures hardly shrink further, and 6 takes three times as long
    image_path = image_folder / f"{stem}_leftImg8bit.png"
    Image.fromarray(scene.image).save(image_path, compress_level=1)
    truth = truth_folder / f"{stem}_gtFine"
    label_ids = label_image(scene.objects, size=(height, width), encoding="ids")
    label_ids.save(f"{truth}_labelIds.png")
    train_ids = label_image(scene.objects, size=(height, width), encoding="trainIds")
    train_ids.save(f"{truth}_labelTrainIds.png")
    instance_image(scene.objects, size=(height, width)).save(f"{truth}_instanceIds.png")
    annotation = {
        "imgHeight": height,
        "imgWidth": width,
        "objects": [
            {"label": item.label, "polygon": [list(point) for point in item.polygon]}
            for item in scene.objects
        ],
    }
    Path(f"{truth}_polygons.json").write_text(json.dumps(annotation))


def label_image(
    objects: Iterable[SceneObject], *, size: tuple[int, int], encoding: str
) -> Image.Image:
    """Rasterise polygons in order to class ids.

    Args:
        objects: polygons, later ones on top.
        size: (height, width) in pixels.
        encoding: "ids" (labelIds.png, background 0) or "trainIds" (labelTrainIds.png, background
            and ignored 255).

    Returns:
        An 8-bit grey image.

    Raises:
        ValueError: for another encoding or an unknown class.
    """
    if encoding not in ("ids", "trainIds"):
        raise ValueError(f'encoding must be "ids" or "trainIds", got {encoding!r}')
    picture = Image.new("L", (size[1], size[0]), 0 if encoding == "ids" else 255)
    pen = ImageDraw.Draw(picture)
    for item in objects:
        label, _ = _official_label(item.label)
        pen.polygon(item.polygon, fill=label.id if encoding == "ids" else label.trainId)
    return picture


def instance_image(objects: Iterable[SceneObject], *, size: tuple[int, int]) -> Image.Image:
    """Rasterise polygons in order to instance ids: id * 1000 + n, or the plain id of stuff.

    Args:
        objects: polygons, later ones on top; a label ending in "group" counts as one crowd with the
            plain id.
        size: (height, width) in pixels.

    Returns:
        A 16-bit grey image.

    Raises:
        ValueError: for an unknown class.
    """
    picture = Image.new("I", (size[1], size[0]), 0)
    pen = ImageDraw.Draw(picture)
    numbers: dict[str, int] = {}
    for item in objects:
        label, is_crowd = _official_label(item.label)
        value = label.id
        if label.hasInstances and not is_crowd:
            number = numbers.get(label.name, 0)
            value = label.id * 1000 + number
            numbers[label.name] = number + 1
        pen.polygon(item.polygon, fill=value)
    return Image.fromarray(np.asarray(picture).astype(np.uint16))


def _official_label(name: str) -> tuple[Any, bool]:
    """Cityscapes' own entry for a class name, and whether the name is that of a crowd."""
    from cityscapesscripts.helpers.labels import name2label

    if name in name2label:
        return name2label[name], False
    if name.endswith("group") and name[: -len("group")] in name2label:
        return name2label[name[: -len("group")]], True
    raise ValueError(f"Cityscapes has no class {name!r}")
