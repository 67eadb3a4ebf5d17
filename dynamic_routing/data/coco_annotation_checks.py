"""What must hold of each annotation of a COCO file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .coco_segmentation_checks import are_numbers, check_extent, check_segmentation
from .coco_structure_checks import Findings, ImageInfo, Title, Unique, shown

VISIBILITIES = frozenset((0, 1, 2))
"""Of a keypoint: not labelled, hidden, visible."""


@dataclass
class Tally:
    """How many annotations have a property, and the first of them.

    Attributes:
        count: of them.
        first: id of the first; None while there is none.
    """

    count: int = 0
    first: int | None = None

    def add(self, identity: int) -> None:
        """Count one more."""
        self.count += 1
        if self.first is None:
            self.first = identity


@dataclass(frozen=True)
class Contents:
    """What a COCO file's annotations hold.

    Attributes:
        usable: annotations to train on, which crowds are not.
        without_mask: those without segmentation.
        run_lengths: usable ones whose segmentation is no list of polygons.
    """

    usable: Tally = field(default_factory=Tally)
    without_mask: Tally = field(default_factory=Tally)
    run_lengths: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class AnnotationRules:
    """What annotations may refer to.

    Attributes:
        images: image id -> image; None for one whose size is not known.
        keypoints: category id -> number of keypoints; None where it is not known.
        keypoints_needed: whether each annotation needs keypoints; COCO's crowds have zeros.
        repeated_ids: whether ids that occur twice are only odd.
    """

    images: Mapping[int, ImageInfo | None]
    keypoints: Mapping[int, int | None]
    keypoints_needed: bool
    repeated_ids: bool = False


def check_annotations(
    items: Sequence[Mapping[str, Any]], rules: AnnotationRules, found: Findings
) -> Contents:
    """Check all annotations and sum up what they hold."""
    ids = Unique(found, "annotation id", odd=rules.repeated_ids)
    contents = Contents()
    for number, item in enumerate(items):
        identity = item.get("id")
        if type(identity) is not int or identity < 1:
            # pycocotools takes 0 for "no match" and would count such an object as missed.
            found.add(f"annotations[{number}]: id must be an integer from 1, got {shown(identity)}")
            continue
        ids.add(identity)
        _check_annotation(item, rules, found)
        _count(item, identity, contents)
    return contents


def _count(item: Mapping[str, Any], identity: int, contents: Contents) -> None:
    """Take down what an annotation holds."""
    mask, usable = item.get("segmentation"), not item.get("iscrowd")
    if usable:
        contents.usable.add(identity)
    if not mask:
        contents.without_mask.add(identity)
    elif usable and not isinstance(mask, list):
        contents.run_lengths.add(identity)


def _check_annotation(item: Mapping[str, Any], rules: AnnotationRules, found: Findings) -> None:
    """Check one annotation, whose id is an integer."""
    image_id, category_id = item.get("image_id"), item.get("category_id")
    if type(image_id) is not int or image_id not in rules.images:
        found.add(f"annotation {item['id']}: image_id {shown(image_id)} is not among the images")
        return
    title = Title(item["id"], rules.images[image_id])
    if type(category_id) is not int or category_id not in rules.keypoints:
        found.add(f"{title}: category_id {shown(category_id)} is not among the categories")
    else:
        _check_keypoints(item, title, rules.keypoints[category_id], rules, found)
    _check_flags(item, title, found)
    _check_box(item.get("bbox"), title, found)
    check_segmentation(item.get("segmentation"), title, found)


def _check_flags(item: Mapping[str, Any], title: Title, found: Findings) -> None:
    """Check iscrowd and area, without which there is no AP, and ignore, which is not supported."""
    crowd, ignore = item.get("iscrowd"), item.get("ignore", 0)
    area: list[Any] = [item.get("area")]
    if type(crowd) is not int or crowd not in (0, 1):
        found.add(f"{title}: iscrowd must be 0 or 1, got {shown(crowd)}")
    if not are_numbers(area) or area[0] < 0:
        found.add(f"{title}: area must be a finite number from 0, got {shown(area[0])}")
    if ignore != 0:
        found.add(f"{title}: ignore must be 0 (Detectron2 has no other), got {shown(ignore)}")


def _check_box(box: Any, title: Title, found: Findings) -> None:
    """Check a box, [x, y, width, height] in pixels."""
    if not are_numbers(box) or len(box) != 4:
        found.add(f"{title}: bbox must be 4 finite numbers, [x, y, w, h], got {shown(box)}")
        return
    x, y, width, height = box
    if width <= 0 or height <= 0:
        found.add(
            f"{title}: bbox {shown(box)} is empty; width and height must be above 0",
            odd=width >= 0 and height >= 0,
        )
    elif title.image is not None:
        check_extent("bbox", box, (x, y, x + width, y + height), title, found)


def _check_keypoints(
    item: Mapping[str, Any],
    title: Title,
    expected: int | None,
    rules: AnnotationRules,
    found: Findings,
) -> None:
    """Check keypoints, [x, y, visibility] each, and their number.

    Args:
        item: the annotation.
        title: names it.
        expected: how many keypoints its category has; None if that is not known.
        rules: tells whether they may be missing.
        found: where problems are taken down.
    """
    points = item.get("keypoints")
    if not points:
        if rules.keypoints_needed:
            found.add(f"{title}: keypoints are missing; the data set has {expected}")
        return
    problem = _keypoints_problem(points, expected)
    if problem:
        found.add(f"{title}: {problem}")
    elif rules.keypoints_needed:
        labelled = sum(value > 0 for value in points[2::3])
        _check_keypoint_number(item.get("num_keypoints"), labelled, title, found)


def _keypoints_problem(points: Any, expected: int | None) -> str | None:
    """What is wrong with keypoints taken by themselves; None if nothing is."""
    if not are_numbers(points):
        return f"keypoints must be finite numbers, got {shown(points)}"
    if len(points) % 3 or (expected is not None and len(points) != 3 * expected):
        wanted = "a multiple of 3" if expected is None else f"3 x {expected}"
        return f"keypoints must be {wanted} numbers, got {len(points)}"
    wrong = sorted({*points[2::3]} - VISIBILITIES)
    return f"visibility of keypoints must be 0, 1 or 2, got {shown(wrong)}" if wrong else None


def _check_keypoint_number(given: Any, labelled: int, title: Title, found: Findings) -> None:
    """Check num_keypoints; a wrong one is only odd while it tells none from some."""
    if given != labelled:
        found.add(
            f"{title}: num_keypoints must be {labelled}, as labelled, got {shown(given)}",
            odd=type(given) is int and (given == 0) == (labelled == 0),
        )
