"""Inputs: every file once, under a name of its own, and what cannot be read is told."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from dynamic_routing.engine.inputs import (
    InputError,
    Source,
    count_frames,
    expand_inputs,
    read_frames,
    video_info,
)

SIZE = (33, 47)


def pixels(height=SIZE[0], width=SIZE[1], channels=3, seed=0):
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def image(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(**options)).save(path)
    return path


def video(path, count=5, size=(48, 64), fps=10.0):
    """A video whose frame i is grey of brightness 20 i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "mp4v" if path.suffix == ".mp4" else "MJPG"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size[::-1])
    assert writer.isOpened()
    for i in range(count):
        writer.write(np.full((*size, 3), 20 * i, np.uint8))
    writer.release()
    return path


def names(sources):
    return [source.name for source in sources]


def expand(*inputs, output="/nowhere"):
    return expand_inputs([str(i) for i in inputs], output=output)


def read(*paths):
    """Frames and complaints."""
    broken = []
    sources = [Source(path, path.stem) for path in paths]
    frames = list(read_frames(sources, on_broken=lambda s, reason: broken.append((s.path, reason))))
    return frames, broken


def test_folder_is_searched_with_its_sub_folders_and_sorted(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a.webp", "notes.txt", ".hidden.png", ".cache/x.png"):
        image(tmp_path / f"{name}.png").rename(tmp_path / name)
    found = [str(s.path.relative_to(tmp_path)) for s in expand(tmp_path)]
    assert found == ["a.webp", "b/1.JPG", "b/2.png"]


def test_pattern_file_and_folder_give_each_file_once_in_order(tmp_path):
    first, second = image(tmp_path / "z.png"), image(tmp_path / "a.png")
    sources = expand(first, tmp_path / "*.png", tmp_path)
    assert [s.path for s in sources] == [first, second]
    assert expand(f"{tmp_path}/**/*.png")[0].path == second


def test_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    image(tmp_path / "a1.png")
    odd = image(tmp_path / "a[1] für *.png")
    assert [s.path for s in expand(odd)] == [odd]


def test_equal_stems_get_distinct_names(tmp_path):
    for name in ("x/a.png", "x/a.jpg", "y/a.png", "y/A.png", "z/a_2.png"):
        image(tmp_path / name)
    found = names(expand(tmp_path))
    assert len({name.casefold() for name in found}) == 5
    assert found == names(expand(tmp_path)) and found[0] == "a"


def test_image_never_takes_the_name_of_a_frame(tmp_path):
    image(tmp_path / "clip_000001.png")
    image(tmp_path / "clip_2_000001.png")
    for name in ("clip.mp4", "clip.avi"):
        (tmp_path / name).touch()
    assert names(expand(tmp_path)) == ["clip", "clip_2", "clip_000001_2", "clip_2_000001_2"]


def test_long_name_leaves_room_for_endings(tmp_path):
    path = image(tmp_path / f"{'ü' * 120}.png")
    (source,) = expand(path)
    assert len(os.fsencode(source.name)) <= 180


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("none.png", "input none.png does not exist"),
        ("none/*.png", "no image or video matches none/*.png"),
        ("", "an input is empty"),
        ("empty", "folder empty holds no image or video"),
        ("notes.txt", "input notes.txt is neither image nor video"),
        ("*.txt", "no image or video matches"),
    ],
)
def test_input_without_images_is_refused_in_one_line(tmp_path, monkeypatch, item, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError) as info:
        expand(item)
    assert message in str(info.value) and "\n" not in str(info.value)


def test_results_below_an_input_folder_are_no_inputs(tmp_path):
    kept = [image(tmp_path / "a.png"), image(tmp_path / "out" / "sub" / "b.png")]
    image(tmp_path / "out" / "a_prediction.png")
    assert [s.path for s in expand(tmp_path, output=tmp_path / "out")] == kept
    assert [s.path for s in expand(f"{tmp_path}/**/*.png", output=tmp_path / "out")] == kept


def test_results_of_an_earlier_run_are_no_inputs(tmp_path):
    photo, result = image(tmp_path / "a.png"), image(tmp_path / "old" / "a_prediction.png")
    for name in ("predictions.json", "images.json"):
        (tmp_path / "old" / name).touch()
    for item in (tmp_path, f"{tmp_path}/**/*.png"):
        assert [s.path for s in expand(item, output=tmp_path / "new")] == [photo]
    with pytest.raises(InputError, match="nothing but results"):
        expand(tmp_path / "old", output=tmp_path / "new")
    assert [s.path for s in expand(result)] == [result]  # named by itself, it is meant


@pytest.mark.parametrize("item", [".", "a.png", "*.png", "../link"])
def test_output_folder_that_holds_the_inputs_is_refused(tmp_path, monkeypatch, item):
    folder = tmp_path / "folder"
    image(folder / "a.png")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="choose another --output"):
        expand(item, output=folder)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK"])
def test_every_kind_of_image_becomes_bgr(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a b ü.png")
    Image.fromarray(pixels()).convert(mode).save(path)
    with Image.open(path) as stored:
        expected = np.asarray(stored.convert("RGB"))[:, :, ::-1]
    ((found,), broken) = read(path)
    assert found.image.shape == (*SIZE, 3) and found.image.dtype == np.uint8 and not broken
    assert np.array_equal(found.image, expected) and found.image.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_as_detectron2_does(tmp_path, orientation):
    picture = Image.fromarray(pixels())
    exif = picture.getexif()
    exif[274] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    ((found,), _) = read(tmp_path / "a.png")
    assert found.image.shape[:2] == (SIZE if orientation < 5 else SIZE[::-1])
    assert np.array_equal(found.image, read_image(str(tmp_path / "a.png"), format="BGR"))


def test_broken_image_is_told_and_the_others_are_read(tmp_path):
    good = [image(tmp_path / "a.png"), image(tmp_path / "c.png", seed=1)]
    bad = text, cut, gone, deep = [tmp_path / f"{n}.png" for n in ("text", "cut", "gone", "deep")]
    text.write_text("no image")
    cut.write_bytes(good[0].read_bytes()[:2000])
    Image.fromarray(pixels(channels=0).astype(np.uint16) * 200).save(deep)  # would be white
    frames, broken = read(good[0], *bad, good[1])
    assert [frame.name for frame in frames] == ["a", "c"]
    assert [path for path, _ in broken] == [text, cut, gone, deep]
    assert all(str(path) in reason and "\n" not in reason for path, reason in broken)


@pytest.mark.parametrize("name", ["drive ü.mp4", "drive.avi"])
def test_video_gives_its_frames_in_order(tmp_path, name):
    path = video(tmp_path / name)
    frames, broken = read(path)
    assert not broken and [f.number for f in frames] == list(range(5))
    assert [f.name for f in frames] == [f"{path.stem}_{i:06d}" for i in range(5)]
    means = [f.image.mean() for f in frames]
    assert all(f.image.shape == (48, 64, 3) and f.image.dtype == np.uint8 for f in frames)
    assert np.allclose(means, [0, 20, 40, 60, 80], atol=6)
    assert video_info(path).fps == pytest.approx(10) and video_info(path).frames == 5


def test_video_that_is_none_or_cut_short_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "SILENT")
    fake, whole = tmp_path / "fake.mp4", video(tmp_path / "whole.avi", count=12)
    fake.write_bytes(b"nothing " * 50)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames, broken = read(fake, whole, cut)
    assert {f.source.path for f in frames} >= {whole} and len(frames) >= 12
    assert dict(broken)[fake].startswith(f"video {fake} cannot be read: no video")
    assert whole not in dict(broken) and cut in dict(broken)


def test_frames_are_counted_without_reading_them(tmp_path):
    sources = expand(image(tmp_path / "a.png"), video(tmp_path / "b.mp4", count=7))
    assert count_frames(sources) == 8
    (tmp_path / "c.mp4").write_bytes(b"nothing")
    assert count_frames(expand(tmp_path)) is None


def test_pipe_is_refused_alone_and_left_out_of_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="no regular file"):
        expand_inputs([str(tmp_path / "pipe.png")], output=tmp_path / "out")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    found = expand_inputs([str(tmp_path)], output=tmp_path / "out")
    assert [source.path.name for source in found] == ["a.png"]
