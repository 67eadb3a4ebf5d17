"""Finding what is wrong with a COCO annotation file before anything is built on it.

`coco_report` reads a file once and says in one line each what is wrong and where;
`coco_problems` adds the image files. Files that COCO released have a few empty boxes, which
Detectron2 drops. Such oddities are apart, so that they can be logged there and refused elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .coco_annotation_checks import AnnotationRules, Contents, check_annotations
from .coco_structure_checks import (
    MAX_LISTED,
    Category,
    Findings,
    ImageInfo,
    entries,
    index_images,
    read_categories,
    shown,
)

UNLABELLED_PREFIX = "image_info_"
"""Files that begin like this, as COCO's for testing, need no annotations."""

REPEATED_IDS = "minival"
"""COCO 2014's files of this name repeat a few annotation ids; Detectron2 allows it as well."""

_REMEMBERED = 16
_SHOWN = 3


@dataclass(frozen=True)
class CocoReport:
    """What a COCO file holds, and what is wrong with it.

    Attributes:
        classes: names of the categories in the order of their ids, as Detectron2 numbers them.
        category_ids: their ids.
        file_names: of the images, relative to the image folder; only those that stay in there.
        contents: of the annotations.
        errors: the first `MAX_LISTED` problems, one line each.
        num_errors: how many there are.
        oddities: the first of those problems that Detectron2 copes with (empty boxes; boxes and
            polygons that stick out of the image; polygons of too few points).
        num_oddities: how many there are.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    file_names: tuple[str, ...]
    contents: Contents
    errors: tuple[str, ...]
    num_errors: int
    oddities: tuple[str, ...]
    num_oddities: int

    def problems(self, *, strict: bool) -> list[str]:
        """At most `MAX_LISTED` lines, and one with how many more there are.

        Args:
            strict: whether oddities count.
        """
        lines = [*self.errors, *(self.oddities if strict else ())][:MAX_LISTED]
        total = self.num_errors + (self.num_oddities if strict else 0)
        return lines if total == len(lines) else [*lines, f"... and {total - len(lines)} more"]


def coco_problems(
    json_path: str | Path,
    image_root: str | Path,
    *,
    keypoints: Sequence[str] | None = None,
    strict: bool = True,
) -> list[str]:
    """What is wrong with a COCO data set; reads no image.

    Args:
        json_path: annotation file.
        image_root: folder of its images.
        keypoints: names of the keypoints that each object must have; None for no such need.
        strict: whether to refuse what only the released COCO files may have.

    Returns:
        One line each, the first `MAX_LISTED` of the file and one for missing images; none if all
        is well.
    """
    report = coco_report(json_path, keypoints=keypoints)
    missing = missing_images(report, image_root)
    return [*report.problems(strict=strict), *([missing] if missing else [])]


def described(json_path: str | Path, problems: Sequence[str]) -> str:
    """Problems of a file as one text: a single one on its line, several on a line each."""
    if len(problems) == 1:
        return f"{json_path} {problems[0]}"
    return "\n  - ".join((f"{json_path} has {len(problems)} lines of problems:", *problems))


def missing_images(report: CocoReport, image_root: str | Path) -> str:
    """One line about images that are not in their folder; empty if all are there."""
    root, names = str(image_root), report.file_names
    absent = [name for name in names if not os.path.isfile(os.path.join(root, name))]
    if not absent:
        return ""
    first = ", ".join(map(shown, absent[:_SHOWN]))
    return f"{len(absent)} of {len(names)} images are not in {root}, first {first}"


def coco_report(json_path: str | Path, *, keypoints: Sequence[str] | None = None) -> CocoReport:
    """Read and check an annotation file; again only if it has changed since.

    Args:
        json_path: annotation file.
        keypoints: names of the keypoints that each object must have; None for no such need.
    """
    path = os.path.abspath(json_path)
    try:
        status = os.stat(path)
    except OSError as error:
        return _unreadable(f"cannot be read: {error.strerror}")
    names = None if keypoints is None else tuple(keypoints)
    return _report(path, status.st_mtime_ns, status.st_size, names)


@lru_cache(maxsize=_REMEMBERED)
def _report(path: str, modified: int, size: int, keypoints: tuple[str, ...] | None) -> CocoReport:
    """The report of one state of a file; ``modified`` and ``size`` tell states apart."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        return _unreadable(f"cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, absurdly long or deep
        return _unreadable(f"is no JSON: {error}")
    if not isinstance(content, dict):
        return _unreadable(f"must hold an object, got a {type(content).__name__}")
    return _checked(content, os.path.basename(path), keypoints)


def _unreadable(text: str) -> CocoReport:
    """The report of a file that nothing can be read of."""
    found = Findings()
    found.add(text)
    return _summary({}, [], Contents(), found)


def _checked(
    content: Mapping[str, Any], file_name: str, keypoints: tuple[str, ...] | None
) -> CocoReport:
    """Check what a file holds."""
    found = Findings()
    items = entries(content, "images", found)
    if not items:
        found.add("lists no images")
    images = index_images(items, found)
    items = entries(content, "categories", found)
    categories = read_categories(items, found, keypoints=keypoints)
    if not items:
        found.add("lists no categories")
    unlabelled = file_name.startswith(UNLABELLED_PREFIX) and "annotations" not in content
    items = [] if unlabelled else entries(content, "annotations", found)
    rules = AnnotationRules(
        images=images,
        keypoints={c.id: _number_of_keypoints(c, keypoints) for c in categories},
        keypoints_needed=keypoints is not None,
        repeated_ids=REPEATED_IDS in file_name,
    )
    contents = check_annotations(items, rules, found)
    return _summary(images, categories, contents, found)


def _number_of_keypoints(category: Category, keypoints: tuple[str, ...] | None) -> int | None:
    """Those that the data set is registered with, else the category's own; None: not known."""
    names = category.keypoints if keypoints is None else keypoints
    return None if names is None else len(names)


def _summary(
    images: Mapping[int, ImageInfo | None],
    categories: Sequence[Category],
    contents: Contents,
    found: Findings,
) -> CocoReport:
    """The report of what was found."""
    return CocoReport(
        classes=tuple(category.name for category in categories),
        category_ids=tuple(category.id for category in categories),
        file_names=tuple(image.file_name for image in images.values() if image is not None),
        contents=contents,
        errors=tuple(found.errors),
        num_errors=found.num_errors,
        oddities=tuple(found.oddities),
        num_oddities=found.num_oddities,
    )
