"""What must hold of a COCO file's images and categories, whoever made it."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from .images import MAX_PIXELS

MAX_LISTED = 10
"""How many problems of a file are put into words; the others are counted."""

_SHORT = reprlib.Repr()
_SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 6, 3, 80, 80


def shown(value: object) -> str:
    """A foreign value for a message: short, on one line, without control characters."""
    return _SHORT.repr(value)


@dataclass(frozen=True)
class ImageInfo:
    """An image of a COCO file.

    Attributes:
        file_name: relative to the image folder.
        width: in pixels.
        height: in pixels.
    """

    file_name: str
    width: int
    height: int


class Title(NamedTuple):
    """What an annotation is called in messages; text only where there is something to say.

    Attributes:
        identity: the annotation's id.
        image: it belongs to; None for one that is wrong itself.
    """

    identity: int
    image: ImageInfo | None

    def __str__(self) -> str:
        file = "" if self.image is None else f" ({shown(self.image.file_name)})"
        return f"annotation {self.identity}{file}"


class Findings:
    """Problems as they are met: the first `MAX_LISTED` in words, the others counted."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.oddities: list[str] = []
        self.num_errors = 0
        self.num_oddities = 0

    def add(self, text: str, *, odd: bool = False) -> None:
        """Take down one problem.

        Args:
            text: one line: which entry, what was given, what is allowed.
            odd: whether Detectron2 copes (it clips boxes and drops empty ones), so that the
                released COCO files may have it.
        """
        if odd:
            self.num_oddities += 1
        else:
            self.num_errors += 1
        listed = self.oddities if odd else self.errors
        if len(listed) < MAX_LISTED:
            listed.append(text)


class Unique:
    """Finds values that come a second time.

    Args:
        found: where repetitions are taken down.
        what: what the values are, for the message.
        odd: whether a repetition is only odd.
    """

    def __init__(self, found: Findings, what: str, *, odd: bool = False) -> None:
        self._found, self._what, self._odd = found, what, odd
        self._seen: set[Hashable] = set()

    def add(self, value: Hashable) -> bool:
        """Take down a value; False if it was there already."""
        if value in self._seen:
            self._found.add(f"{self._what} {shown(value)} is there more than once", odd=self._odd)
            return False
        self._seen.add(value)
        return True


def entries(content: Mapping[str, Any], key: str, found: Findings) -> list[Mapping[str, Any]]:
    """The objects of one of the file's three lists; what is wrong with the list is taken down."""
    if key not in content:
        found.add(f"{key!r} is missing; a COCO file has images, annotations and categories")
        return []
    items = content[key]
    if not isinstance(items, list):
        found.add(f"{key!r} must be a list of objects, got {shown(items)}")
        return []
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            found.add(f"{key}[{number}] must be an object, got {shown(item)}")
    return [item for item in items if isinstance(item, dict)]


def index_images(
    items: Sequence[Mapping[str, Any]], found: Findings
) -> dict[int, ImageInfo | None]:
    """Check the images.

    Returns:
        Image id -> image; None for one that is wrong itself, so that its annotations are not
        blamed.
    """
    index: dict[int, ImageInfo | None] = {}
    ids, names = Unique(found, "image id"), Unique(found, "image file_name")
    for number, item in enumerate(items):
        identity = item.get("id")
        if type(identity) is not int:
            found.add(f"images[{number}]: id must be an integer, got {shown(identity)}")
            continue
        image = _image(item, found)
        if image is not None:
            names.add(os.path.normpath(image.file_name))
        if ids.add(identity):
            index[identity] = image
    return index


def _image(item: Mapping[str, Any], found: Findings) -> ImageInfo | None:
    """One image, or None (taken down) if it is wrong."""
    file_name = item.get("file_name")
    width: Any = item.get("width")
    height: Any = item.get("height")
    title = f"image {item['id']} ({shown(file_name)})"
    before = found.num_errors
    for key, value in (("width", width), ("height", height)):
        if type(value) is not int or value < 1:
            found.add(f"{title}: {key} must be a positive integer, got {shown(value)}")
    if not is_inside(file_name):
        found.add(f"{title}: file_name must be a path inside the image folder")
    if found.num_errors > before:
        return None
    if width * height > MAX_PIXELS:
        found.add(f"{title}: {width} x {height} is too large; allowed are {MAX_PIXELS} pixels")
        return None
    return ImageInfo(str(file_name), width, height)


def is_inside(file_name: object) -> bool:
    """Whether a value is a relative path that cannot leave its folder, going by its letters.

    Links in the folder are the user's own and may point anywhere. A path of Windows is judged by
    its rules as well.
    """
    if not isinstance(file_name, str) or "\0" in file_name:
        return False
    posix, windows = PurePosixPath(file_name), PureWindowsPath(file_name)
    if posix.is_absolute() or windows.drive or windows.root or not posix.parts:
        return False
    return ".." not in posix.parts and ".." not in windows.parts


@dataclass(frozen=True)
class Category:
    """A category of a COCO file.

    Attributes:
        id: as in the file.
        name: of the class.
        keypoints: names of its keypoints; None where the file gives none.
    """

    id: int
    name: str
    keypoints: tuple[str, ...] | None


def read_categories(
    items: Sequence[Mapping[str, Any]], found: Findings, *, keypoints: Sequence[str] | None
) -> list[Category]:
    """Check the categories.

    Args:
        items: of the file.
        found: where problems are taken down.
        keypoints: names that the data set is registered with, if it has any.

    Returns:
        Those with an id of their own, sorted by it, which is how Detectron2 numbers classes.
    """
    categories: list[Category] = []
    ids, names = Unique(found, "category id"), Unique(found, "category name")
    for number, item in enumerate(items):
        category = _category(item, number, found)
        if category is None:
            continue
        names.add(category.name)
        if ids.add(category.id):
            categories.append(category)
        points = category.keypoints
        if keypoints is not None and points is not None and points != tuple(keypoints):
            found.add(
                f"category {category.id} has keypoints {shown(list(points))}, but the data set is "
                f"registered with {shown(list(keypoints))}"
            )
    return sorted(categories, key=lambda category: category.id)


def _category(item: Mapping[str, Any], number: int, found: Findings) -> Category | None:
    """One category, or None (taken down) if it is wrong."""
    identity, name, points = item.get("id"), item.get("name"), item.get("keypoints")
    if type(identity) is not int:
        found.add(f"categories[{number}]: id must be an integer, got {shown(identity)}")
    elif not isinstance(name, str) or not name:
        found.add(f"category {identity}: name must be a text, got {shown(name)}")
    elif points is None:
        return Category(identity, name, None)
    elif not isinstance(points, list) or not all(isinstance(point, str) for point in points):
        found.add(f"category {identity}: keypoints must be a list of names, got {shown(points)}")
    else:
        return Category(identity, name, tuple(points))
    return None
