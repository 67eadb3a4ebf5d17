"""Pieces of HTML: escaped, short, and nothing but pictures inside a picture."""

import pytest

from dynamic_routing.analysis.html import (
    colour_legend,
    columns_table,
    folded,
    format_percentage,
    format_value,
    heading,
    missing,
    paragraph,
    picture,
    row_of,
    values_table,
)
from tests.analysis.page import EVIL, Page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (71.236, "71.24"),
        (12.0, "12"),
        (0.000123456, "0.0001235"),
        (float("nan"), "n/a"),
        (float("inf"), "inf"),
        (3, "3"),
        ("x", "x"),
    ],
)
def test_values_are_short(value, text):
    assert format_value(value) == text


def test_percentages_line_up():
    assert [format_percentage(v) for v in (5.0, 71.236, float("nan"))] == ["5.00", "71.24", "n/a"]


@pytest.mark.parametrize(
    "html",
    [
        paragraph(EVIL),
        missing(EVIL),
        heading(EVIL),
        folded(EVIL, ""),
        values_table({EVIL: EVIL}),
        columns_table(EVIL, {EVIL: {EVIL: 1.0}}),
        picture(b"\xff\xd8\xff", EVIL),
        colour_legend([(EVIL, (1, 2, 3))]),
    ],
)
def test_texts_are_shown_and_never_run(html):
    assert EVIL in Page(html).text and "<script" not in html


def test_columns_with_holes_keep_their_rows():
    page = Page(columns_table("m", {"a": {"x": 1.0}, "b": {"y": 2.5}}))
    assert page.tags.count("tr") == 3 and page.tags.count("td") == 4
    assert page.text == "mabx1y2.5"


def test_only_pictures_go_into_a_page():
    for content in (b"", b"<svg onload=x>", b"GIF89a"):
        with pytest.raises(ValueError, match="no PNG or JPEG"):
            picture(content, "a")
    assert 'src="data:image/jpeg;base64,/9j/"' in picture(b"\xff\xd8\xff", "a", "half")
    assert row_of(["a", "b"]) == '<div class="row">ab</div>' and not colour_legend([])
