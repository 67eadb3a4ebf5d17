"""A good COCO file, and one change for each mistake that must be found in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamic_routing.data.images import MAX_PIXELS

HEIGHT, WIDTH = 20, 30
KEYPOINTS = ["nose", "left_eye", "right_eye"]

GOOD: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 3, "file_name": "sub/b.png", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [
        {"id": 90, "name": "dog"},
        {"id": 1, "name": "person", "keypoints": KEYPOINTS},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 1,
            "bbox": [-0.5, 2, 30.7, 6],
            "area": 30.5,
            "iscrowd": 0,
            "segmentation": [[2, 2, 12, 2, 12, 8], [30.5, 1, 2, 8, -1, 8]],
            "keypoints": [3, 3, 2, 0, 0, 0, 5, 5, 1],
            "num_keypoints": 2,
        },
        {
            "id": 2,
            "image_id": 3,
            "category_id": 90,
            "bbox": [0, 0, 5, 5],
            "area": 25,
            "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 5, HEIGHT * WIDTH - 5]},
        },
    ],
}

Change = Callable[[dict[str, Any]], object]


def first(content: dict[str, Any]) -> dict[str, Any]:
    return content["annotations"][0]


def set_first(**values: Any) -> Change:
    return lambda content: first(content).update(values)


def set_image(**values: Any) -> Change:
    return lambda content: content["images"][0].update(values)


def set_category(**values: Any) -> Change:
    return lambda content: content["categories"][0].update(values)


def put(key: str, value: Any) -> Change:
    return lambda content: content.update({key: value})


def mask(**values: Any) -> Change:
    default = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    return set_first(segmentation={**default, **values})


def repeat(key: str, **values: Any) -> Change:
    """A second entry like the first, with other values."""
    return lambda content: content[key].append({**content[key][0], **values})


NAN, INFINITE, HUGE = float("nan"), float("inf"), 10**400
STRUCTURE: dict[str, tuple[Change, str]] = {
    # The lists.
    "no-images": (lambda c: c.pop("images"), "'images' is missing"),
    "no-annotations": (lambda c: c.pop("annotations"), "'annotations' is missing"),
    "no-categories": (lambda c: c.pop("categories"), "'categories' is missing"),
    "empty-images": (put("images", []), "lists no images"),
    "empty-categories": (put("categories", []), "lists no categories"),
    "images-no-list": (put("images", {"a": 1}), "'images' must be a list of objects, got {'a': 1}"),
    "image-no-object": (lambda c: c["images"].append(5), "images[2] must be an object, got 5"),
    "annotation-no-object": (
        lambda c: c["annotations"].append([1]),
        "annotations[2] must be an object, got [1]",
    ),
    "category-no-object": (
        lambda c: c["categories"].append("x"),
        "categories[2] must be an object",
    ),
    # Images.
    "image-id": (set_image(id="7"), "images[0]: id must be an integer, got '7'"),
    "image-id-bool": (set_image(id=True), "images[0]: id must be an integer, got True"),
    "image-twice": (repeat("images", file_name="c.png"), "image id 7 is there more than once"),
    "file-twice": (
        repeat("images", id=9, file_name="./a.png"),
        "image file_name 'a.png' is there more than once",
    ),
    "width": (set_image(width=0), "image 7 ('a.png'): width must be a positive integer, got 0"),
    "height": (set_image(height=20.0), "height must be a positive integer, got 20.0"),
    "no-height": (set_image(height=None), "height must be a positive integer, got None"),
    "bomb": (
        set_image(width=100_000, height=100_000),
        f"100000 x 100000 is too large; allowed are {MAX_PIXELS} pixels",
    ),
    "absolute": (set_image(file_name="/etc/passwd"), "must be a path inside the image folder"),
    "outside": (set_image(file_name="sub/../../a.png"), "must be a path inside the image folder"),
    "no-name": (set_image(file_name=None), "image 7 (None): file_name must be a path inside"),
    "missing": (set_image(file_name="c\n.png"), "1 of 2 images are not in"),
    # Categories.
    "category-id": (set_category(id=None), "categories[0]: id must be an integer, got None"),
    "category-twice": (repeat("categories", name="x"), "category id 90 is there more than once"),
    "name-twice": (repeat("categories", id=5), "category name 'dog' is there more than once"),
    "category-name": (set_category(name=""), "category 90: name must be a text, got ''"),
    "category-points": (set_category(keypoints=[1]), "category 90: keypoints must be a list of na"),
}
"""Mistakes that may bring others with them."""

BROKEN: dict[str, tuple[Change, str]] = {
    # Annotations.
    "annotation-id": (set_first(id="x"), "annotations[0]: id must be an integer from 1, got 'x'"),
    "annotation-0": (set_first(id=0), "annotations[0]: id must be an integer from 1, got 0"),
    "annotation-twice": (set_first(id=2), "annotation id 2 is there more than once"),
    "unknown-image": (set_first(image_id=8), "annotation 1: image_id 8 is not among the images"),
    "list-image": (set_first(image_id=[7]), "image_id [7] is not among the images"),
    "unknown-class": (
        set_first(category_id=2),
        "annotation 1 ('a.png'): category_id 2 is not among the categories",
    ),
    "crowd": (set_first(iscrowd=2), "iscrowd must be 0 or 1, got 2"),
    "no-crowd": (lambda c: first(c).pop("iscrowd"), "iscrowd must be 0 or 1, got None"),
    "no-area": (lambda c: first(c).pop("area"), "area must be a finite number from 0, got None"),
    "nan-area": (set_first(area=NAN), "area must be a finite number from 0, got nan"),
    "huge-area": (set_first(area=HUGE), "area must be a finite number from 0, got 100"),
    "ignore": (set_first(ignore=1), "ignore must be 0 (Detectron2 has no other), got 1"),
    # Boxes.
    "no-box": (lambda c: first(c).pop("bbox"), "bbox must be 4 finite numbers"),
    "short-box": (set_first(bbox=[1, 2, 3]), "bbox must be 4 finite numbers, [x, y, w, h], got [1"),
    "nan-box": (set_first(bbox=[1, NAN, 3, 4]), "got [1, nan, 3, 4]"),
    "infinite-box": (set_first(bbox=[1, 2, INFINITE, 4]), "got [1, 2, inf, 4]"),
    "huge-box": (set_first(bbox=[1, 2, HUGE, 4]), "bbox must be 4 finite numbers"),
    "text-box": (set_first(bbox=["1", 2, 3, 4]), "got ['1', 2, 3, 4]"),
    "bool-box": (set_first(bbox=[True, 2, 3, 4]), "got [True, 2, 3, 4]"),
    "negative-box": (set_first(bbox=[5, 2, -3, 4]), "bbox [5, 2, -3, 4] is empty; width and hei"),
    "empty-box": (set_first(bbox=[5, 2, 3, 0]), "bbox [5, 2, 3, 0] is empty"),
    "box-far-right": (
        set_first(bbox=[40, 2, 3, 4]),
        "annotation 1 ('a.png'): bbox [40, 2, 3, 4] reaches 13 pixels out of the image of 30 x 20 "
        "(width x height); allowed is 1",
    ),
    "box-left": (set_first(bbox=[-1.5, 2, 9, 4]), "reaches 1.5 pixels out of the image"),
    "box-bottom": (set_first(bbox=[5, 2, 9, 20]), "reaches 2 pixels out of the image"),
    "box-enormous": (set_first(bbox=[1e308, 2, 1e308, 20]), "reaches inf pixels out"),
    # Polygons.
    "mask-type": (set_first(segmentation="x"), "segmentation must be a list of polygons or an"),
    "flat-polygon": (set_first(segmentation=[1]), "polygon 1 must be a list of finite numbers"),
    "odd-polygon": (set_first(segmentation=[[1] * 7]), "polygon of 7 coordinates; an even number"),
    "two-corners": (set_first(segmentation=[[1] * 4]), "polygon of 4 coordinates"),
    "nan-polygon": (
        set_first(segmentation=[[1, 1, 2, NAN, 3, 3]]),
        "polygon [1, 1, 2, nan, 3, 3] must be a list of finite numbers",
    ),
    "polygon-outside": (
        set_first(segmentation=[[1, 1, 2, 2, 3, 22]]),
        "polygon [1, 1, 2, 2, 3, 22] reaches 2 pixels out of the image",
    ),
    # Run lengths.
    "mask-size": (mask(size=[WIDTH, HEIGHT]), "must be the image's, [20, 30], got [30, 20]"),
    "mask-float-size": (mask(size=[20.0, 30.0]), "must be the image's, [20, 30], got [20.0, 30.0]"),
    "no-mask-size": (mask(size=None), "must be the image's, [20, 30], got None"),
    "counts-type": (mask(counts=None), "mask counts must be a list of integers or a text"),
    "float-counts": (mask(counts=[600.0]), "mask counts must be a list of integers or a text"),
    "short-counts": (mask(counts=[5, 5]), "mask counts add up to 10, the mask has 600 pixels"),
    "no-counts": (mask(counts=[]), "mask counts add up to 0"),
    "negative-counts": (mask(counts=[601, -1]), "mask counts must be in 0..600, got -1"),
    "huge-counts": (mask(counts=[HUGE]), "mask counts must be in 0..600, got 1000"),
    "short-text": (mask(counts="52203"), "mask counts add up to"),
    "no-letters": (mask(counts="\u00e9\u00e9"), "are no compressed run lengths"),
    "low-letters": (mask(counts="!!"), "mask counts '!!' are no compressed run lengths"),
    "unfinished-text": (mask(counts="5o"), "mask counts '5o' are no compressed run lengths"),
    "long-text": (mask(counts="o" * 40 + "0"), "hold a number of 41 letters"),
    "empty-text": (mask(counts=""), "mask counts add up to 0"),
    # Keypoints.
    "few-keypoints": (set_first(keypoints=[1, 1, 2]), "keypoints must be 3 x 3 numbers, got 3"),
    "nan-keypoints": (set_first(keypoints=[NAN] * 9), "keypoints must be finite numbers"),
    "visibility": (
        set_first(keypoints=[1, 1, 2, 1, 1, 3, 1, 1, 0]),
        "visibility of keypoints must be 0, 1 or 2, got [3]",
    ),
}

NEEDED: dict[str, tuple[Change, str]] = {
    "missing": (lambda c: first(c).pop("keypoints"), "keypoints are missing; the data set has 3"),
    "uncounted": (lambda c: first(c).pop("num_keypoints"), "num_keypoints must be 2, as labelled"),
    "miscounted": (set_first(num_keypoints=3), "num_keypoints must be 2, as labelled, got 3"),
    "other-names": (
        lambda c: c["categories"][1].update(keypoints=["a", "b", "c"]),
        "category 1 has keypoints ['a', 'b', 'c'], but the data set is registered with ['nose',",
    ),
}
"""Mistakes in a data set that is registered with keypoints."""
