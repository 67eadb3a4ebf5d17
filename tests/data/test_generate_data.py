"""The command line tool."""

from pathlib import Path

import generate_data
import pytest


def run(root: Path, *words: str) -> int:
    return generate_data.main(generate_data.parse_args(["--root", str(root), *words]))


@pytest.mark.parametrize(
    ("kind", "folder"), [("cityscapes", "cityscapes"), ("coco", "coco"), ("voc", "VOC2012")]
)
def test_tree_is_written_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, folder: str
) -> None:
    words = ("--format", kind, "--train", "2", "--val", "1", "--size", "32", "48")
    assert run(tmp_path, *words) == 0
    out = capsys.readouterr().out
    assert "3/3 images" in out
    assert f"export DETECTRON2_DATASETS={tmp_path}" in out
    assert (tmp_path / folder).is_dir()
    assert run(tmp_path, *words) == 0
    assert "images\n" not in capsys.readouterr().out.split("holds")[0]  # nothing drawn again


@pytest.mark.parametrize(
    ("kind", "size"), [("cityscapes", (256, 512)), ("coco", (128, 192)), ("voc", (256, 512))]
)
def test_each_format_has_its_own_size(kind: str, size: tuple[int, int]) -> None:
    args = generate_data.parse_args(["--root", "here", "--format", kind])
    assert args.size == size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "0", "64"), "(0, 64)"),
        (("--size", "31", "64"), "at least 32"),
        (("--train", "-1"), "got -1"),
        (("--train", "0", "--val", "0"), "at least one image"),
        (("--seed", "-1"), "got -1"),
    ],
)
@pytest.mark.parametrize("kind", ["cityscapes", "coco"])
def test_wrong_input_gives_one_line_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    words: tuple[str, ...],
    said: str,
) -> None:
    assert run(tmp_path / "new", "--format", kind, *words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_root_that_is_a_file_gives_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(tmp_path / "file", "--train", "1", "--val", "0", "--size", "32", "32") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_overwrite_must_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--train", "1", "--val", "0", "--size", "32", "32")
    assert run(tmp_path, *words) == 0
    assert run(tmp_path, *words, "--seed", "1") == 2
    assert "other parameters" in capsys.readouterr().err
    assert run(tmp_path, *words, "--seed", "1", "--overwrite") == 0
