"""The Detectron2 installer, on a small made-up carrying wheel; the real one is a slow test."""

import base64
import csv
import dataclasses
import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import _detectron2_wheel
import install_detectron2
import pytest
from _detectron2_wheel import CarrierWheel, InstallError
from check_venv import drop_incomplete

INSTALLER = Path(install_detectron2.__file__)
CARRIED = {
    "Carrier/__init__.py": b"import heavy\n",
    "Carrier/detectron2/__init__.py": b"from Carrier.detectron2 import config\n",
    "Carrier/detectron2/config.py": b"import Carrier.detectron2.layers as layers\n",
    "Carrier/detectron2/layers.py": b'NAME = "Carrier.detectron2.layers"\n',
    "Carrier/detectron2/modeling.py": b"",
    "Carrier/detectron2/model_zoo/configs/Base.yaml": b"NOTE: Carrier.detectron2 stays here\n",
    "Carrier-1.0.dist-info/METADATA": b"Name: Carrier\nVersion: 1.0\n",
}
RESTORED = {
    "detectron2/__init__.py": b"from detectron2 import config\n",
    "detectron2/config.py": b"import detectron2.layers as layers\n",
    "detectron2/layers.py": b'NAME = "detectron2.layers"\n',
    "detectron2/modeling.py": b"",
    "detectron2/model_zoo/configs/Base.yaml": b"NOTE: Carrier.detectron2 stays here\n",
}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def carrier_file(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "carrier-1.0-py3-none-any.whl", CARRIED)


@pytest.fixture
def carrier(carrier_file: Path) -> CarrierWheel:
    listing = "".join(
        f"{hashlib.sha256(RESTORED[name]).hexdigest()}  {name}\n" for name in sorted(RESTORED)
    )
    return CarrierWheel(
        name="Carrier",
        version="1.0",
        sha256=hashlib.sha256(carrier_file.read_bytes()).hexdigest(),
        tree_sha256=hashlib.sha256(listing.encode()).hexdigest(),
    )


def test_extraction_restores_the_import_name_in_python_files_only(carrier_file, carrier):
    assert _detectron2_wheel.extract_tree(carrier_file, carrier) == RESTORED


def test_tree_digest_does_not_depend_on_order_but_on_names_and_contents():
    digest = _detectron2_wheel.tree_digest
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})
    assert digest({"a": b"1", "b": b"2"}) != digest({"a": b"2", "b": b"1"})
    assert digest({"a": b"1"}) != digest({"c": b"1"})


def test_record_lists_every_file_with_its_hash_and_size(carrier_file, carrier, tmp_path):
    wheel = _detectron2_wheel.wheel_from_carrier(carrier_file, tmp_path / "out", carrier)
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    record_name = "detectron2-0.6+carrier1.0.dist-info/RECORD"
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(contents[record_name].decode()))}
    assert rows.pop(record_name) == ["", ""]
    contents.pop(record_name)
    assert rows.keys() == contents.keys()
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        assert rows[name] == [f"sha256={digest}", str(len(content))]


def test_the_same_input_gives_the_same_wheel(carrier_file, carrier, tmp_path):
    build = _detectron2_wheel.wheel_from_carrier
    first = build(carrier_file, tmp_path / "first", carrier)
    second = build(carrier_file, tmp_path / "second", carrier)
    assert first.read_bytes() == second.read_bytes()


def test_a_wheel_with_another_sha256_is_refused(carrier_file, carrier, tmp_path):
    carrier_file.write_bytes(carrier_file.read_bytes() + b"x")
    with pytest.raises(InstallError, match=r"SHA-256 of carrier-1.0\S+ is .*expected .*: refused"):
        _detectron2_wheel.wheel_from_carrier(carrier_file, tmp_path / "out", carrier)
    assert not (tmp_path / "out").exists()


def test_other_detectron2_files_are_refused(carrier_file, carrier, tmp_path):
    wrong = dataclasses.replace(carrier, tree_sha256="0" * 64)
    with pytest.raises(InstallError, match="SHA-256 over the 5 Detectron2 files .*: refused"):
        _detectron2_wheel.wheel_from_carrier(carrier_file, tmp_path / "out", wrong)
    assert not (tmp_path / "out").exists()


def test_a_wheel_without_detectron2_is_refused(carrier, tmp_path):
    empty = write_zip(tmp_path / "empty.whl", {"Carrier/__init__.py": b""})
    with pytest.raises(InstallError, match="holds no Carrier/detectron2/__init__.py"):
        _detectron2_wheel.extract_tree(empty, carrier)
    (tmp_path / "text.whl").write_text("no zip file")
    with pytest.raises(InstallError, match="not a readable wheel"):
        _detectron2_wheel.extract_tree(tmp_path / "text.whl", carrier)


def run_installer(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, str(INSTALLER), *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_refuses_a_wrong_wheel_with_one_line(carrier_file, tmp_path):
    result = run_installer("--carrier", str(carrier_file), "--build-wheel", str(tmp_path / "out"))
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 1 and not result.stderr
    assert lines[0].startswith("FAILED: Detectron2: SHA-256 of carrier-1.0-py3-none-any.whl")


def test_nothing_is_done_where_detectron2_can_be_imported(monkeypatch, capsys):
    monkeypatch.setattr(install_detectron2, "describe_installed", lambda: "detectron2 0.6, here")
    monkeypatch.setattr(install_detectron2, "install", lambda args: pytest.fail("installed"))
    assert install_detectron2.main(install_detectron2.parse_args([])) == 0
    assert "nothing to do" in capsys.readouterr().out


class RecordedPip(install_detectron2.Pip):
    """Keeps the calls instead of running pip; fails where an argument starts with `failing`."""

    def __init__(self, failing: str = "nothing fails") -> None:
        super().__init__(log=None, target=None)
        self.failing = failing
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, command: str, *arguments: str) -> None:
        self.calls.append((command, *arguments))
        if any(argument.startswith(self.failing) for argument in arguments):
            raise InstallError("pip install failed: no compiler")


@pytest.fixture
def carried_pins(monkeypatch, carrier):
    """The made-up wheel takes the place of the pinned one."""
    build = _detectron2_wheel.wheel_from_carrier
    monkeypatch.setattr(
        install_detectron2, "wheel_from_carrier", lambda file, to: build(file, to, carrier)
    )
    monkeypatch.setattr(
        install_detectron2,
        "download_carrier",
        lambda pip, folder: write_zip(folder / "carrier-1.0-py3-none-any.whl", CARRIED),
    )


def install_with(pip: RecordedPip, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(install_detectron2, "Pip", lambda log, target: pip)
    install_detectron2.install(install_detectron2.parse_args(arguments))


def test_the_official_source_is_built_at_the_pin_where_it_can_be_reached(monkeypatch):
    monkeypatch.setattr(install_detectron2, "git_source_problem", lambda: None)
    pip = RecordedPip()
    install_with(pip, monkeypatch, "--no-requirements")
    (call,) = pip.calls
    assert call[-1] == (
        "detectron2 @ git+https://github.com/facebookresearch/detectron2.git"
        "@c69939aa85460e8135f40bce908a6cddaa73065f"
    )
    assert "--no-build-isolation" in call


@pytest.mark.parametrize("problem", ["cannot be reached", None])
def test_the_copy_is_used_where_the_official_source_fails(
    monkeypatch, capsys, carried_pins, problem
):
    monkeypatch.setattr(install_detectron2, "git_source_problem", lambda: problem)
    pip = RecordedPip(failing="detectron2 @ git+")
    install_with(pip, monkeypatch, "--no-requirements")
    assert Path(pip.calls[-1][-1]).name == "detectron2-0.6+carrier1.0-py3-none-any.whl"
    reason = problem or "pip install failed: no compiler"
    assert f"official source not used: {reason}" in capsys.readouterr().out


def test_an_unreachable_source_is_noticed_at_once_and_asks_for_nothing(monkeypatch):
    monkeypatch.setattr(install_detectron2, "GIT_URL", "https://127.0.0.1:9/none.git")
    assert install_detectron2.git_source_problem() == "cannot be reached"


def test_the_download_is_pinned_by_hash(tmp_path, carrier):
    pip = RecordedPip()
    (tmp_path / "carrier.whl").touch()
    install_detectron2.download_carrier(pip, tmp_path, carrier)
    assert {"--require-hashes", "--no-deps"} <= set(pip.calls[0])
    pinned = Path(pip.calls[0][-1]).read_text().strip()
    assert pinned == f"Carrier==1.0 --hash=sha256:{carrier.sha256}"


def test_the_source_is_named():
    source_of = install_detectron2.source_of
    assert source_of("0.6+labgym3.1.2", None) == "copy in LabGym 3.1.2 (no C++ extension)"
    commit = install_detectron2.GIT_COMMIT
    assert source_of("0.6", f'{{"commit_id": "{commit}"}}') == "official source at c69939aa"
    assert source_of("0.6", None) == "installed by other means"


def make_distribution(folder: Path, name: str, record: str | None) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    if record is not None:
        (info / "RECORD").write_text(record)


def test_records_of_half_installed_distributions_are_dropped(tmp_path):
    (tmp_path / "there.py").touch()
    make_distribution(tmp_path, "whole", "there.py,,\n__pycache__/there.pyc,,\n")
    make_distribution(tmp_path, "no_record", None)
    make_distribution(tmp_path, "empty_record", "")
    make_distribution(tmp_path, "lost_file", "there.py,,\ngone.py,,\n")
    dropped = [f"{name}-1.0.dist-info" for name in ("empty_record", "lost_file", "no_record")]
    assert drop_incomplete(tmp_path) == dropped
    assert [path.name for path in tmp_path.glob("*.dist-info")] == ["whole-1.0.dist-info"]


@pytest.mark.slow
def test_pip_installs_lists_and_removes_the_built_wheel(carrier_file, carrier, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    wheel = _detectron2_wheel.wheel_from_carrier(carrier_file, tmp_path / "out", carrier)

    def pip(*arguments: str) -> str:
        call = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout

    pip("install", "--no-deps", "--no-index", str(wheel))
    subprocess.run([python, "-c", install_detectron2.IMPORT_CHECK], check=True, cwd=tmp_path)
    assert "0.6+carrier1.0" in pip("list")
    pip("uninstall", "-y", "detectron2")
    assert "detectron2" not in pip("list")
    assert not list((tmp_path / "venv").rglob("detectron2"))


@pytest.mark.slow
def test_the_pinned_copy_of_the_package_index_installs(tmp_path):
    target = tmp_path / "target folder"
    result = run_installer("--source", "wheel", "--no-requirements", "--target", str(target))
    if "pip download failed" in result.stdout and "SHA" not in result.stdout.upper():
        pytest.skip(f"no package index: {result.stdout.splitlines()[-1]}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SHA-256 of the wheel and of the Detectron2 files in it are as pinned" in result.stdout
    assert (target / "detectron2" / "modeling" / "__init__.py").is_file()
    info = target / f"detectron2-{_detectron2_wheel.PINNED.detectron2_version}.dist-info"
    names = (info / "RECORD").read_text().splitlines()
    assert sum(name.startswith("detectron2/") and ".pyc" not in name for name in names) == 306
