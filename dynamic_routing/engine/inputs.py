"""What a prediction reads: files, folders, patterns and videos, as one stream of named frames."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dynamic_routing.data.custom_files import IMAGE_SUFFIXES
from dynamic_routing.data.images import ImageError, read_image

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
DEFAULT_FPS = 25.0
"""Frames a second of a video that does not say."""

COMPLETE = 0.95
"""A video that ends before this share of its own frame count was cut short; counts are rough."""

MAX_NAME_BYTES = 180
"""Longest name of an input; file systems allow 255 bytes, endings included."""

RESULT_FILES = ("predictions.json", "images.json")
"""What every run writes; a folder that holds both is one of results."""


class InputError(ValueError):
    """Inputs that a user has to mend; its message is one line."""


class VideoError(ValueError):
    """A video that cannot be read; its message is one line and names the file."""


@dataclass(frozen=True)
class Source:
    """An image or a video.

    Attributes:
        path: the file.
        name: the stem of everything that is written about it; no other source has it.
    """

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """By its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture to predict on.

    Attributes:
        source: where it comes from.
        name: the source's, of a video with ``_<number>`` in six digits; no other frame has it.
        image: (H, W, 3) uint8, BGR.
        number: of the frame in its video, from 0; None for an image.
    """

    source: Source
    name: str
    image: np.ndarray
    number: int | None = None


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself.

    Attributes:
        frames: how many, roughly; 0 if it does not say.
        fps: frames a second.
    """

    frames: int
    fps: float


OnBroken = Callable[[Source, str], None]
"""Told of a source that cannot be read, and why in a line that names it."""


def expand_inputs(inputs: Sequence[str], *, output: str | Path) -> list[Source]:
    """The files behind the inputs, each once, in the order given and sorted within an input.

    Args:
        inputs: files, folders (searched with their sub-folders) and patterns (``*``, ``?``,
            ``[]``, ``**``). Hidden files and, except for single files, other suffixes than
            :data:`SUFFIXES` are left out, and so are the results of earlier runs.
        output: where results go. Files that lie directly in there are never taken for inputs, so
            that a run cannot read its own results, nor replace its inputs.

    Raises:
        InputError: an input that does not exist or holds nothing, a file of an unknown kind, an
            input that lies in the output folder.
    """
    target = os.path.realpath(output)
    paths: dict[str, Path] = {}
    for item in inputs:
        for path in _expanded(item, target):
            paths.setdefault(os.path.abspath(path), path)
    return _named(list(paths.values()))


def _expanded(item: str, target: str) -> list[Path]:
    """The files behind one input."""
    if not item:
        raise InputError("an input is empty; give files, folders or patterns")
    path = Path(item).expanduser()
    if path.is_dir():
        return _in_folder(path, target)
    if path.exists():
        return [_single_file(path, target)]
    if glob.has_magic(item):
        return _matches(item, target)
    raise InputError(f"input {item} does not exist")


def _single_file(path: Path, target: str) -> Path:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"input {path} is neither image nor video; known: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"input {path} is no regular file")
    if _lies_in(path, target):
        raise InputError(f"input {path} lies in the output folder; choose another --output")
    return path


def _in_folder(folder: Path, target: str) -> list[Path]:
    """Images and videos of a folder and its sub-folders, sorted."""
    if os.path.realpath(folder) == target:
        raise InputError(f"input folder {folder} is the output folder; choose another --output")
    found = []
    for parent, children, files in os.walk(folder):
        children[:] = sorted(name for name in children if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
    # Dangling links stay, to be reported when they are read; pipes and devices would block.
    files_only = [path for path in found if path.is_file() or not path.exists()]
    known = [path for path in files_only if path.suffix.lower() in SUFFIXES]
    kept = [path for path in known if not _is_result(path, target)]
    if known and not kept:
        raise InputError(f"folder {folder} holds nothing but results of this program")
    if not kept:
        raise InputError(f"folder {folder} holds no image or video ({', '.join(SUFFIXES)})")
    return kept


def _matches(pattern: str, target: str) -> list[Path]:
    """Images and videos that match a pattern, sorted."""
    names = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    known = [p for p in map(Path, names) if p.is_file() and p.suffix.lower() in SUFFIXES]
    kept = [path for path in known if not _is_result(path, target)]
    if known and not kept:
        raise InputError(
            f"all of {pattern} lies in the output folder, or is results; choose another --output"
        )
    if not kept:
        raise InputError(f"no image or video matches {pattern}")
    return kept


def _lies_in(path: Path, target: str) -> bool:
    """Whether a file lies directly in the folder ``target``, a real path."""
    return os.path.realpath(path.parent) == target


def _is_result(path: Path, target: str) -> bool:
    """Whether a file lies in the output folder, or beside the lists that a run leaves."""
    beside = [path.parent / name for name in RESULT_FILES]
    return _lies_in(path, target) or all(file.is_file() for file in beside)


def _named(paths: Sequence[Path]) -> list[Source]:
    """Name each file by its stem, with ``_2``, ``_3`` ... where the name is taken.

    Videos choose first, since each takes the names of its frames as well.
    """
    names: dict[Path, str] = {}
    videos: set[str] = set()
    taken: set[str] = set()
    for path in sorted(paths, key=lambda path: not Source(path, "").is_video):
        stem = os.fsdecode(os.fsencode(path.stem)[:MAX_NAME_BYTES])
        name, number = stem, 1
        while name.casefold() in taken or _is_frame_of(name.casefold(), videos):
            number += 1
            name = f"{stem}_{number}"
        names[path] = name
        taken.add(name.casefold())  # some file systems ignore case
        if Source(path, name).is_video:
            videos.add(name.casefold())
    return [Source(path, names[path]) for path in paths]


def _is_frame_of(name: str, videos: set[str]) -> bool:
    """Whether a frame of one of the videos has this name."""
    match = re.fullmatch(r"(.*)_\d{6,}", name, re.DOTALL)
    return match is not None and match.group(1) in videos


def read_frames(sources: Sequence[Source], *, on_broken: OnBroken) -> Iterator[Frame]:
    """Read the sources one after the other; those that cannot be read are told and left out.

    An image is turned as its EXIF data says, as Detectron2 does; grey, palette and transparent
    images become BGR.
    """
    for source in sources:
        try:
            if source.is_video:
                yield from _video_frames(source)
            else:
                image = np.ascontiguousarray(read_image(str(source.path), "BGR"))
                yield Frame(source, source.name, image)
        except (ImageError, VideoError) as error:
            on_broken(source, str(error))


def _video_frames(source: Source) -> Iterator[Frame]:
    """Read a video; a VideoError may come after some frames."""
    capture, number = cv2.VideoCapture(str(source.path)), 0
    try:
        while True:
            found, image = capture.read()
            if not found:
                break
            yield Frame(source, f"{source.name}_{number:06d}", image, number)
            number += 1
        promised = _info(capture).frames
    finally:
        capture.release()
    if not number:
        raise VideoError(f"video {source.path} cannot be read: no video, or an unknown codec")
    if number < COMPLETE * promised:
        raise VideoError(f"video {source.path} ends after {number} of {promised} frames")


def video_info(path: str | Path) -> VideoInfo:
    """What a video says of itself; nothing and :data:`DEFAULT_FPS` if it cannot be read."""
    capture = cv2.VideoCapture(str(path))
    try:
        return _info(capture)
    finally:
        capture.release()


def _info(capture: cv2.VideoCapture) -> VideoInfo:
    frames, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    plausible = np.isfinite(fps) and 0 < fps < 1000
    return VideoInfo(max(0, int(frames)), float(fps) if plausible else DEFAULT_FPS)


def count_frames(sources: Sequence[Source]) -> int | None:
    """How many frames to expect, roughly; None if a video does not say."""
    counts = [video_info(s.path).frames if s.is_video else 1 for s in sources]
    return sum(counts) if all(counts) else None
