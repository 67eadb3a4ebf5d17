"""Every mistake in a COCO file is one line that says where it is."""

import copy
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_util

from dynamic_routing.data.coco_checks import (
    coco_problems,
    coco_report,
    described,
    missing_images,
)
from dynamic_routing.data.coco_segmentation_checks import decode_counts
from dynamic_routing.data.coco_structure_checks import MAX_LISTED, is_inside
from tests.data.broken_coco import (
    BROKEN,
    GOOD,
    HEIGHT,
    KEYPOINTS,
    NEEDED,
    STRUCTURE,
    WIDTH,
    Change,
    first,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images/sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / name)
    return tmp_path


def problems(folder: Path, content: object, **options: Any) -> list[str]:
    path = folder / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return coco_problems(path, folder / "images", **options)


def test_good_file_passes(folder: Path) -> None:
    assert problems(folder, GOOD) == []
    report = coco_report(folder / "boxes.json")
    assert (report.classes, report.category_ids) == (("person", "dog"), (1, 90))
    assert report.file_names == ("a.png", "sub/b.png")
    assert report.contents.usable.count == 1 and report.contents.without_mask.count == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON: Expecting property name"),
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"images": ' + "9" * 5000 + "}", "is no JSON"),
        ("[]", "must hold an object, got a list"),
        ("null", "must hold an object, got a NoneType"),
    ],
    ids=["open", "empty", "deep", "long-number", "list", "null"],
)
def test_files_that_are_no_object_are_one_line(folder: Path, text: str, message: str) -> None:
    (line,) = problems(folder, text)
    assert message in line and "\n" not in line


def test_file_that_is_no_text_is_one_line(folder: Path) -> None:
    (folder / "boxes.json").write_bytes(b"\xff\xfe\x00\x80")
    (line,) = coco_problems(folder / "boxes.json", folder)
    assert "is no JSON" in line
    (line,) = coco_problems(folder / "gone.json", folder)
    assert line == "cannot be read: No such file or directory"
    (line,) = coco_problems(folder, folder)
    assert line == "cannot be read: Is a directory"


@pytest.mark.parametrize(("change", "message"), STRUCTURE.values(), ids=STRUCTURE)
def test_each_mistake_in_the_lists_is_named(folder: Path, change: Change, message: str) -> None:
    content = copy.deepcopy(GOOD)
    change(content)
    found = problems(folder, content)
    assert any(message in line for line in found), found
    assert not any("\n" in line for line in found)


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_each_mistake_in_an_annotation_is_one_line(
    folder: Path, change: Change, message: str
) -> None:
    content = copy.deepcopy(GOOD)
    change(content)
    (line,) = problems(folder, content)
    assert message in line and "\n" not in line


def test_annotations_of_a_wrong_image_are_not_blamed(folder: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["images"][0]["width"] = -1
    (line,) = problems(folder, content)
    assert line.startswith("image 7 ('a.png'): width")


@pytest.mark.parametrize(("change", "message"), NEEDED.values(), ids=NEEDED)
def test_keypoint_data_sets_need_all_keypoints(folder: Path, change: Change, message: str) -> None:
    content = copy.deepcopy(GOOD)
    del content["annotations"][1]
    assert problems(folder, content, keypoints=KEYPOINTS) == []
    change(content)
    (line,) = problems(folder, content, keypoints=KEYPOINTS)
    assert message in line


@pytest.mark.parametrize(
    "key", ["empty-box", "box-far-right", "odd-polygon", "two-corners", "polygon-outside"]
)
def test_what_detectron2_copes_with_is_odd_and_the_rest_an_error(folder: Path, key: str) -> None:
    content = copy.deepcopy(GOOD)
    BROKEN[key][0](content)
    assert problems(folder, content, strict=False) == []
    report = coco_report(folder / "boxes.json")
    assert report.num_oddities == 1 and BROKEN[key][1] in report.oddities[0]


@pytest.mark.parametrize("key", ["negative-box", "box-enormous", "nan-polygon", "short-counts"])
def test_what_breaks_pycocotools_is_an_error_everywhere(folder: Path, key: str) -> None:
    content = copy.deepcopy(GOOD)
    BROKEN[key][0](content)
    (line,) = problems(folder, content, strict=False)
    assert BROKEN[key][1] in line


def test_long_lists_of_problems_are_cut(folder: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["annotations"] = [{"id": i + 1, "image_id": 5} for i in range(MAX_LISTED + 4)]
    lines = problems(folder, content)
    assert len(lines) == MAX_LISTED + 1 and lines[-1] == "... and 4 more"
    assert described("x.json", lines).count("\n") == MAX_LISTED + 1
    assert described("x.json", ["lists no images"]) == "x.json lists no images"


def test_files_for_testing_need_no_annotations(folder: Path) -> None:
    path = folder / "image_info_test.json"
    path.write_text(json.dumps({key: GOOD[key] for key in ("images", "categories")}))
    assert coco_problems(path, folder / "images") == []


def test_repeated_ids_are_odd_in_minival(folder: Path) -> None:
    path = folder / "instances_minival2014.json"
    content = copy.deepcopy(GOOD)
    first(content)["id"] = 2
    path.write_text(json.dumps(content))
    assert coco_problems(path, folder / "images", strict=False) == []


def test_file_is_read_again_only_if_it_changed(folder: Path) -> None:
    assert problems(folder, GOOD) == []
    path = folder / "boxes.json"
    before = coco_report(path)
    assert coco_report(path) is before
    path.write_text(json.dumps({**GOOD, "annotations": 5}))
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 1))
    assert coco_report(path).num_errors == 1


def test_images_that_vanish_are_found_without_reading_the_file_again(folder: Path) -> None:
    assert problems(folder, GOOD) == []
    (folder / "images/a.png").unlink()
    line = missing_images(coco_report(folder / "boxes.json"), folder / "images")
    assert line == f"1 of 2 images are not in {folder}/images, first 'a.png'"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("train/a b.jpg", True),
        ("..a.jpg", True),
        ("", False),
        (".", False),
        ("../a.jpg", False),
        ("a/../b.jpg", False),
        ("a\\..\\b.jpg", False),
        ("/a.jpg", False),
        ("\\\\server\\a.jpg", False),
        ("C:a.jpg", False),
        ("a\0.jpg", False),
        (5, False),
    ],
)
def test_names_cannot_leave_their_folder(name: object, expected: bool) -> None:
    assert is_inside(name) == expected


@pytest.mark.parametrize("seed", range(5))
def test_compressed_masks_decode_to_what_pycocotools_encoded(folder: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 400, size=2)
    pixels = generator.random((height, width)) < generator.random() ** 3
    encoded = mask_util.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"].decode()
    flat = pixels.ravel(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate(([False], flat)).astype(np.int8)))
    expected = np.diff(np.concatenate(([0], changes, [flat.size])))
    assert decode_counts(encoded).tolist() == expected.tolist()
    content = copy.deepcopy(GOOD)
    content["images"][0].update(height=int(height), width=int(width))
    first(content).update(
        bbox=[0, 0, 1, 1], segmentation={"size": [int(height), int(width)], "counts": encoded}
    )
    assert problems(folder, content) == []


@given(st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=0xD7FF), max_size=40))
@settings(max_examples=200)
def test_any_text_of_counts_is_decoded_or_refused(text: str) -> None:
    try:
        counts = decode_counts(text)
    except ValueError as error:
        assert str(error).startswith("mask counts")
    else:
        assert counts.dtype == np.int64 and counts.ndim == 1


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from([10**400, 2**63, -(2**63), 1e308, -1e308]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(-2, 40), st.floats(), st.text(max_size=2)), max_size=8),
    st.dictionaries(st.sampled_from(["size", "counts", "x"]), st.integers(-2, 700), max_size=2),
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in nested lists and dictionaries."""
    keys: Any = ()
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    return [path, *(p for key in keys for p in places(value[key], (*path, key)))]


PLACES = [path for path in places(GOOD) if path]


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=4))
@settings(max_examples=250)
def test_mutated_files_give_lines_and_no_other_error(
    changes: list[tuple[tuple, object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = copy.deepcopy(GOOD)
    for path, value in changes:
        place: Any = content
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change took the place away
    folder = tmp_path_factory.getbasetemp()
    file = folder / f"{random.getrandbits(64):x}.json"
    file.write_text(json.dumps(content))
    for keypoints in (None, KEYPOINTS):
        lines = coco_problems(file, folder, keypoints=keypoints)
        assert lines and all(isinstance(line, str) and "\n" not in line for line in lines)
    file.unlink()
