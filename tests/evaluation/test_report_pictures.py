"""Pictures of a page: small whatever they show, exact where colours mean something."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dynamic_routing.analysis.report import MissingPartError
from dynamic_routing.evaluation.report_pictures import (
    THUMB_WIDTH,
    TILE_BYTES,
    ImageTiles,
    StoredImages,
    encode_thumb,
    encode_tile,
)
from tests.analysis.page import EVIL, Page

NOISE = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)


def opened(content):
    return Image.open(io.BytesIO(content))


def test_noise_gets_small_enough():
    assert len(encode_tile(NOISE)) <= TILE_BYTES
    labels = np.where(NOISE[..., :1] > 127, 255, 0).astype(np.uint8).repeat(3, axis=2)
    assert len(encode_tile(labels, flat=True)) <= TILE_BYTES
    assert opened(encode_thumb(NOISE)).width == THUMB_WIDTH


def test_label_maps_keep_their_colours():
    labels = np.zeros((300, 900, 3), dtype=np.uint8)
    labels[:, 300:] = (128, 64, 128)
    labels[:, 600:] = (1, 2, 3)
    found = np.asarray(opened(encode_tile(labels, flat=True)).convert("RGB"))
    assert {tuple(c) for c in found.reshape(-1, 3).tolist()} == {
        (0, 0, 0), (128, 64, 128), (1, 2, 3)
    }  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1), (1, 1), (40, 30)])
def test_strange_shapes_are_drawn(shape):
    tile = np.zeros((*shape, 3), dtype=np.uint8)
    for content in (encode_tile(tile), encode_tile(tile, flat=True), encode_thumb(tile)):
        width, height = opened(content).size
        assert 1 <= width <= 640 and 1 <= height <= 1280


def test_tiles_stand_above_their_legend():
    html = ImageTiles({EVIL: NOISE[:9, :9]}, legend=((EVIL, (1, 2, 3)),)).to_html()
    page = Page(html)
    assert page.text == EVIL * 2 and len(page.sources) == 1
    assert "rgb(1,2,3)" in html


def test_files_that_are_no_images_say_so(tmp_path):
    images = StoredImages("")
    (tmp_path / "text.png").write_text("hello")
    for path in (tmp_path / "gone.png", tmp_path / "text.png", tmp_path):
        with pytest.raises(MissingPartError, match=path.name):
            images.photo(str(path))
    Image.new("P", (6, 4)).save(tmp_path / "palette.png")
    assert images.photo(str(tmp_path / "palette.png")).shape == (4, 6, 3)


def test_huge_files_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("dynamic_routing.evaluation.report_pictures.MAX_FILE_BYTES", 10)
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    with pytest.raises(MissingPartError, match="too large"):
        StoredImages("").photo(str(tmp_path / "a.png"))
