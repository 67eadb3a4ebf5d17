#!/usr/bin/env python3
"""Print what this environment holds, what was tested, and the fix for each missing piece.

Runs with the standard library alone. Exit status 1 if something required is missing or broken.

Examples:
    .venv/bin/python tools/doctor.py
    .venv/bin/python tools/doctor.py --json
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from _detectron2_wheel import PINNED
from _versions import canonical, is_older, oldest_versions, tested_versions
from install_detectron2 import source_of

MIN_PYTHON = (3, 10)
TESTED_PYTHON = "3.11"
INSTALL_DETECTRON2 = "python tools/install_detectron2.py"
# Any of these brings cv2; the first is what setup.py asks for.
OPENCV = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)


@dataclass(frozen=True)
class Piece:
    """One line of the report.

    Attributes:
        name: what was looked at.
        found: version or setting found; empty if it is missing.
        oldest: lower bound of setup.py, tested as well; empty if there is none.
        tested: version or setting that the project was tested with; empty if any will do.
        status: `ok`, `optional` (missing, needed for some tasks only), `missing` or `broken`.
        fix: command or advice; empty if nothing is to be done.
    """

    name: str
    found: str
    tested: str
    status: str
    fix: str = ""
    oldest: str = ""

    @property
    def fails(self) -> bool:
        """Whether the project cannot work like this."""
        return self.status in ("missing", "broken")


@dataclass(frozen=True)
class Library:
    """A library to look for.

    Attributes:
        distribution: its name for pip.
        module: the module to import.
        extra: the extra of setup.py that brings it; empty if it is always needed.
        label: what the report calls it; empty for the distribution's name.
        others: further distributions that bring the same module.
    """

    distribution: str
    module: str
    extra: str = ""
    label: str = ""
    others: tuple[str, ...] = ()


LIBRARIES = (
    Library("torch", "torch"),
    Library("torchvision", "torchvision"),
    Library("numpy", "numpy"),
    Library("Pillow", "PIL.Image"),
    Library("scipy", "scipy"),
    Library("scikit-learn", "sklearn"),
    Library("threadpoolctl", "threadpoolctl"),
    Library("opencv-python-headless", "cv2", others=OPENCV[1:]),
    Library("matplotlib", "matplotlib"),
    Library("fvcore", "fvcore"),
    Library("iopath", "iopath"),
    Library("omegaconf", "omegaconf"),
    Library("pycocotools", "pycocotools.mask"),
    Library("safetensors", "safetensors"),
    Library("tensorboard", "tensorboard"),
    Library("setuptools", "pkg_resources", label="setuptools (pkg_resources)"),
    Library("cityscapesscripts", "cityscapesscripts", extra="cityscapes"),
    Library("shapely", "shapely", extra="cityscapes"),
    Library("onnx", "onnx", extra="export"),
    Library("onnxscript", "onnxscript", extra="export"),
    Library("onnxruntime", "onnxruntime", extra="export"),
    Library("pytest", "pytest", extra="dev"),
    Library("pytest-xdist", "xdist", extra="dev"),
    Library("pytest-timeout", "pytest_timeout", extra="dev"),
    Library("hypothesis", "hypothesis", extra="dev"),
    Library("ruff", "ruff", extra="dev"),
    Library("mypy", "mypy", extra="dev"),
)


def version_of(distribution: str) -> str:
    """The installed version of a distribution, empty where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def import_problem(module: str) -> str:
    """Import `module`; the exception as one line, or empty where all is well."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:  # a broken library may raise anything
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def check_python() -> Piece:
    """The running Python against the oldest supported one."""
    found, oldest = platform.python_version(), ".".join(map(str, MIN_PYTHON))
    if sys.version_info >= MIN_PYTHON:
        return Piece("python", found, TESTED_PYTHON, "ok", oldest=oldest)
    fix = f"use Python {oldest} or newer"
    return Piece("python", found, TESTED_PYTHON, "broken", fix, oldest)


def check_library(library: Library, tested: str, oldest: str = "") -> Piece:
    """Whether a library is installed, new enough, and can be imported."""
    name, label = library.distribution, library.label or library.distribution
    present = [other for other in (name, *library.others) if version_of(other)]
    if not present and library.extra:
        fix = f"pip install -c constraints.txt -e '.[{library.extra}]'"
        return Piece(label, "", tested, "optional", fix, oldest)
    fix = f"pip install '{name}=={tested}'" if tested else f"pip install {name}"
    if not present:
        return Piece(label, "", tested, "missing", fix, oldest)
    found = version_of(present[0]) + (f" ({present[0]})" if present[0] != name else "")
    problem = import_problem(library.module)
    if present[0] == name and oldest and is_older(version_of(name), oldest):
        problem = f"older than {oldest}"
    if problem:
        return Piece(label, found, tested, "broken", f"{fix}  # {problem}", oldest)
    return Piece(label, found, tested, "ok", oldest=oldest)


def check_detectron2() -> Iterator[Piece]:
    """Detectron2, where it came from, and whether it has its C++ extension."""
    tested = PINNED.detectron2_version
    spec = importlib.util.find_spec("detectron2")
    if spec is None or spec.origin is None:
        yield Piece("detectron2", "", tested, "missing", INSTALL_DETECTRON2)
        return
    version, source = version_of("detectron2"), "not installed by pip"
    if version:
        url = importlib.metadata.distribution("detectron2").read_text("direct_url.json")
        source = source_of(version, url)
    problem = import_problem("detectron2.modeling")
    if problem:
        fix = f"pip uninstall -y detectron2 && {INSTALL_DETECTRON2}  # {problem}"
        yield Piece("detectron2", version or "?", tested, "broken", fix)
        return
    yield Piece("detectron2", version or "?", tested, "ok")
    yield Piece("detectron2 source", source, "", "ok")
    extension = importlib.util.find_spec("detectron2._C") is not None
    yield Piece("detectron2 C++ extension", "yes" if extension else "no (not needed)", "no", "ok")


def check_devices() -> Iterator[Piece]:
    """CUDA and the number of threads, as PyTorch sees them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if import_problem("torch"):
        yield Piece("threads", f"{cores} cores", "", "ok")
        return
    import torch

    if torch.cuda.is_available():
        devices = ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
        found = f"yes ({devices}; CUDA {torch.version.cuda})"
    else:
        found = f"no (built for CUDA {torch.version.cuda})" if torch.version.cuda else "no"
    yield Piece("CUDA", found, "", "ok")
    settings = f"{torch.get_num_threads()} in PyTorch, {cores} cores"
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        if name in os.environ:
            settings += f", {name}={os.environ[name]}"
    yield Piece("threads", settings, "", "ok")


def check_project() -> Piece:
    """Whether the package itself is installed (editable or not)."""
    found = version_of("dynamic_routing")
    if found:
        return Piece("dynamic_routing", found, "", "ok")
    fix = "pip install -c constraints.txt -e '.[dev,cityscapes,export]'"
    return Piece("dynamic_routing", "", "", "missing", fix)


def examine() -> list[Piece]:
    """All checks, in the order of the report."""
    pins, bounds = tested_versions(), oldest_versions()
    pieces = [check_python(), check_project()]
    for library in LIBRARIES:
        name = canonical(library.distribution)
        pieces.append(check_library(library, pins.get(name, ""), bounds.get(name, "")))
    checks: tuple[Callable[[], Iterator[Piece]], ...] = (check_detectron2, check_devices)
    for check in checks:
        pieces += check()
    return pieces


def differing(pieces: Sequence[Piece]) -> list[str]:
    """Name and version of what works, but in another version than the tested one."""
    return [
        f"{piece.name} {piece.found}, tested {piece.tested}"
        for piece in pieces
        if piece.status == "ok" and not piece.found.startswith(piece.tested)
    ]


def table(pieces: Sequence[Piece]) -> str:
    """The report as text: name, found, oldest, tested, ok or what to do."""
    rows = [("name", "found", "oldest", "tested", "ok, or what to do")]
    for piece in pieces:
        verdict = f"{piece.status}: {piece.fix}" if piece.fix else piece.status
        versions = (piece.found or "-", piece.oldest or "any", piece.tested or "any")
        rows.append((piece.name, *versions, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append("  ".join([*padded, row[4]]))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 1 if something required is missing or broken, else 0."""
    parser = argparse.ArgumentParser(description="Report on this environment.")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead")
    args = parser.parse_args(argv)
    pieces = examine()
    if args.json:
        print(json.dumps([asdict(piece) for piece in pieces], indent=1))
        return int(any(piece.fails for piece in pieces))
    print(table(pieces))
    others = differing(pieces)
    if others:
        print(f"not the tested version: {', '.join(others)}")
    failing = [piece.name for piece in pieces if piece.fails]
    if failing:
        print(f"missing or broken: {', '.join(failing)} (./test.sh makes .venv with everything)")
    else:
        print("all that is required is there")
    return int(bool(failing))


if __name__ == "__main__":
    sys.exit(main())
