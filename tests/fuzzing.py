"""Damaging files for the fuzz tests: edits of bytes that hypothesis draws and shrinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

TOKENS = (
    b"null", b"true", b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"9" * 20, b"9" * 400, b"0.5",
    b'""', b'"x"', b"[]", b"{}", b"[[[[", b'{"a":1}', b"\x00", b"\xff\xfe", b"\n", b",", b": ",
)  # fmt: skip
"""What is put into files: values of other types, numbers out of range, what no text holds."""


@dataclass(frozen=True)
class Edit:
    """One change of a file.

    Attributes:
        place: where, as a share of the length.
        removed: bytes that go.
        put: bytes that come.
    """

    place: float
    removed: int
    put: bytes

    def apply(self, content: bytes) -> bytes:
        """The changed content."""
        start = int(self.place * len(content))
        return content[:start] + self.put + content[start + self.removed :]


@dataclass(frozen=True)
class Reader:
    """What reads a file.

    Attributes:
        name: of the file, with its ending.
        content: of a valid one.
        read: raises ``error`` for what it cannot use, and nothing else.
        error: the documented one.
        cases: how many the slow test draws.
    """

    name: str
    content: bytes
    read: Callable[[Path], object]
    error: type[Exception]
    cases: int


def edits() -> st.SearchStrategy[list[Edit]]:
    """One to four changes: bytes replaced, put in or taken out, or the file cut short."""
    return st.lists(
        st.builds(
            Edit,
            place=st.floats(0, 1, exclude_max=True),
            removed=st.sampled_from([0, 1, 1, 2, 4, 16, 10**9]),
            put=st.one_of(st.sampled_from(TOKENS), st.binary(max_size=4)),
        ),
        min_size=1,
        max_size=4,
    )


def fuzz(reader: Reader, folder: Path, *, cases: int) -> int:
    """Read at least so many damaged files; how many were refused."""
    path, refused, read = folder / reader.name, [], []
    path.write_bytes(reader.content)
    reader.read(path)

    @settings(max_examples=cases)
    @given(edits())
    def read_damaged(changes: list[Edit]) -> None:
        content = reader.content
        for change in changes:
            content = change.apply(content)
        path.write_bytes(content)
        read.append(1)
        try:
            reader.read(path)
        except reader.error as error:
            assert str(error)
            refused.append(1)

    read_damaged()
    assert len(read) >= cases, f"only {len(read)} of {cases} cases were drawn"
    return len(refused)
