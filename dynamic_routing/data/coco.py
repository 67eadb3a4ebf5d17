"""Generated pictures as a COCO 2017 tree: instances, keypoints and panoptic, file by file.

Detectron2's builtin names read it as it is: ``coco_2017_train``, ``keypoints_coco_2017_train``,
``coco_2017_train_panoptic``, ``coco_2017_train_panoptic_separated``, and the same with ``val``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .coco_annotations import instance_annotations, without_keypoints
from .coco_categories import (
    category_ids,
    instance_categories,
    keypoint_categories,
    panoptic_categories,
    stuff_labels,
)
from .coco_panoptic import panoptic_truth, stuff_map
from .coco_scenes import CocoScene, draw_coco_scene
from .image_requests import image_requests
from .profiles import PROFILES
from .tree import (
    Progress,
    check_request,
    manifest_parameters,
    write_tree,
)

SPLITS = ("train", "val")
DEFAULT_COUNTS: Mapping[str, int] = {"train": 240, "val": 60}
DEFAULT_SIZE = (128, 192)
FIRST_IDS: Mapping[str, int] = {"train": 1, "val": 500_001}
"""Image ids of a split count up from here, so that no image of one has an id of the other's."""

_JPEG_QUALITY = 92


def generate_coco(
    root: str | Path,
    *,
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
    profiles: Sequence[str] = PROFILES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write ``root/coco``, unless it is there already.

    Image i of a split has profile ``profiles[i % len(profiles)]``, which its entry in each JSON
    file names under "profile". It depends on seed, split, i, size and profile alone, not on the
    counts. Eight of the 80 categories of things occur, see `dynamic_routing.data.coco_objects`.

    Args:
        root: what DETECTRON2_DATASETS is to point to.
        counts: number of images of "train" (train2017) and "val" (val2017); a split of none is not
            written.
        size: (height, width) in pixels, each at least 32. Drawn for 128 and more.
        seed: same seed, same bytes (with the same Pillow, NumPy and OpenCV).
        profiles: some of "large", "small", "mixed".
        overwrite: replace a generated tree that has other parameters.
        progress: called with (images written, images in all) after each image.

    Returns:
        The tree, ``root/coco``.

    Raises:
        ValueError: for wrong arguments, or if the tree exists with other parameters or was not
            generated.
    """
    check_request(counts, splits=SPLITS, size=size, seed=seed, profiles=profiles)
    parameters = manifest_parameters("coco", counts, size=size, seed=seed, profiles=profiles)
    requests = image_requests(counts, seed=seed, profiles=profiles, progress=progress)

    def write(folder: Path) -> None:
        """Fill the tree."""
        writers = {split: SplitWriter(folder, split) for split, count in counts.items() if count}
        for request in requests:
            scene = draw_coco_scene(request.generator, size=size, profile=request.profile)
            writers[request.split].add(scene)
        for writer in writers.values():
            writer.close()

    target = Path(root).expanduser() / "coco"
    write_tree(target, parameters=parameters, write=write, overwrite=overwrite)
    return target


class SplitWriter:
    """Writes the pictures of one split as they come, and the annotation files at the end.

    Args:
        tree: folder that holds annotations, train2017 and the others.
        split: "train" or "val".
    """

    def __init__(self, tree: Path, split: str) -> None:
        self._tree = tree
        self._name = f"{split}2017"
        self._next_id = FIRST_IDS[split]
        self._ids = category_ids()
        self._labels = stuff_labels()
        self._images: list[dict[str, Any]] = []
        self._instances: list[dict[str, Any]] = []
        self._panoptic: list[dict[str, Any]] = []

    def add(self, scene: CocoScene) -> None:
        """Write the JPEG and both PNGs of the split's next picture."""
        image_id = self._next_id
        self._next_id += 1
        truth = panoptic_truth(scene, self._ids)
        pictures = {
            self._path("", image_id, "jpg"): scene.image,
            self._path("panoptic_", image_id, "png"): truth.colours,
            self._path("panoptic_stuff_", image_id, "png"): stuff_map(scene, self._labels),
        }
        for path, pixels in pictures.items():
            _save(path, pixels)
        self._images.append(_image_entry(scene, image_id))
        self._instances += instance_annotations(scene, image_id=image_id, ids=self._ids)
        name = self._path("panoptic_", image_id, "png").name
        segments = {"segments_info": truth.segments, "file_name": name, "image_id": image_id}
        self._panoptic.append(segments)

    def close(self) -> None:
        """Write the three annotation files."""
        people = [entry for entry in self._instances if "keypoints" in entry]
        instances = [without_keypoints(entry) for entry in self._instances]
        self._write_json("instances", instances, instance_categories())
        self._write_json("person_keypoints", people, keypoint_categories())
        self._write_json("panoptic", self._panoptic, panoptic_categories())

    def _path(self, prefix: str, image_id: int, suffix: str) -> Path:
        return self._tree / f"{prefix}{self._name}" / f"{image_id:012d}.{suffix}"

    def _write_json(
        self, kind: str, annotations: list[dict[str, Any]], categories: list[dict[str, Any]]
    ) -> None:
        """Write one annotation file."""
        content = {
            "info": _INFO,
            "licenses": _LICENSES,
            "images": self._images,
            "annotations": annotations,
            "categories": categories,
        }
        folder = self._tree / "annotations"
        folder.mkdir(exist_ok=True)
        text = json.dumps(content, separators=(",", ":"))
        (folder / f"{kind}_{self._name}.json").write_text(text)


_INFO = {
    "description": "Generated pictures in the layout of COCO 2017",
    "url": "",
    "version": "1.0",
    "year": 2017,
    "contributor": "dynamic_routing",
    "date_created": "",
}
_LICENSES = [{"url": "", "id": 1, "name": "No rights reserved: generated"}]


def _save(path: Path, pixels: np.ndarray) -> None:
    """Write a picture, as JPEG or PNG by the path's suffix."""
    path.parent.mkdir(exist_ok=True)
    picture = Image.fromarray(pixels)
    if path.suffix == ".jpg":
        picture.save(path, quality=_JPEG_QUALITY)
    else:
        picture.save(path)


def _image_entry(scene: CocoScene, image_id: int) -> dict[str, Any]:
    """The picture's entry in "images": COCO's keys and its profile."""
    height, width = scene.image.shape[:2]
    return {
        "license": 1,
        "file_name": f"{image_id:012d}.jpg",
        "coco_url": "",
        "height": height,
        "width": width,
        "date_captured": "",
        "flickr_url": "",
        "id": image_id,
        "profile": scene.profile,
    }
