"""Image files that cannot be used are named in one line."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image

from dynamic_routing.data.images import (
    MAX_PIXELS,
    ImageError,
    check_declared_size,
    check_header,
    read_image,
)

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
ORIENTATION = 0x0112


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of any size."""
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [content, data]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def refusal(path: Path, content: bytes | None = None) -> str:
    """The message for a file; one line with its name."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read_image(str(path), "BGR")
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_good_images_are_read_as_detectron2_reads_them(
    tmp_path: Path, mode: str, image_format: str
) -> None:
    path = str(tmp_path / "a.png")
    Image.fromarray(PIXELS).convert(mode).save(path)
    read = read_image(path, image_format)
    assert np.array_equal(read, detection_utils.read_image(path, format=image_format))


def test_truncated_image_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        tmp_path / "a.jpg"
    )
    whole = (tmp_path / "a.jpg").read_bytes()
    assert "truncated" in refusal(tmp_path / "a.jpg", whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no image, or a damaged one"),
        (b"hello", "no image, or a damaged one"),
        (png_header(5, 5), "cannot be read: "),
        (png_header(5, 5)[:20], "cannot be read: "),
        (None, "No such file or directory"),
    ],
    ids=["empty", "text", "no-pixels", "cut-header", "missing"],
)
def test_undecodable_file_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    assert reason in refusal(tmp_path / "a.png", content)


@pytest.mark.parametrize("size", [(20_000, 10_000), (100_000, 100_000), (MAX_PIXELS + 1, 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_image_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    """None of these has any pixels; decoding would ask for gigabytes."""
    text = refusal(tmp_path / "a.png", png_header(*size))
    assert str(MAX_PIXELS) in text or "pixels" in text


def test_limit_is_where_pillow_stops() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS


def test_deep_image_is_refused_and_deep_label_map_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(path)
    assert "more than 8 bits" in refusal(path)
    check_header(str(path), deep=True)


def test_declared_size_is_compared_after_turning(tmp_path: Path) -> None:
    path = str(tmp_path / "a.jpg")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)
    image = read_image(path, "BGR")
    check_declared_size({"file_name": path, "height": 6, "width": 4}, image)
    check_declared_size({"file_name": path}, image)
    with pytest.raises(ImageError, match=r"a.jpg is 4 x 6 .*but its annotations say 6 x 4"):
        check_declared_size({"file_name": path, "height": 4, "width": 6}, image)
