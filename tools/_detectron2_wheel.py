"""Detectron2 out of a wheel of the package index that carries a copy of it, as a wheel of its own.

Detectron2 is on no package index, but the wheel of LabGym holds the whole of it below
`LabGym/detectron2`, with every import rewritten to `LabGym.detectron2`. This module takes those
files, restores the import name, compares a digest over the result with a pinned one and writes a
small wheel that pip can install, list and remove. Standard library only.

Detectron2 is under the Apache License 2.0, the carrying wheel as a whole under the GPL 3. Nothing
of either is part of this project: the files are fetched and rebuilt on the user's machine.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "PINNED",
    "REQUIREMENTS",
    "CarrierWheel",
    "InstallError",
    "build_wheel",
    "extract_tree",
    "sha256_of",
    "tree_digest",
    "wheel_from_carrier",
]

PACKAGE = "detectron2"
# A wheel's entries carry a date; a fixed one makes the built wheel the same everywhere.
ENTRY_DATE = (2024, 1, 1, 0, 0, 0)
ENTRY_MODE = 0o644

# What Detectron2 needs (its own list asks for iopath<0.1.10 and an old black; these were tested).
REQUIREMENTS = (
    "torch>=2.11",
    "torchvision>=0.26",
    "numpy>=1.26",
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.8",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<=0.1.10",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "black",
    "packaging",
    "setuptools<82",
)


class InstallError(RuntimeError):
    """Detectron2 cannot be installed; the message is one line that a user can act on."""


@dataclass(frozen=True)
class CarrierWheel:
    """A wheel of the package index that holds a copy of Detectron2.

    Attributes:
        name: the distribution's name on the index.
        version: its exact version.
        sha256: SHA-256 of the wheel file, in hex.
        tree_sha256: `tree_digest` of the Detectron2 files after the import name is restored.
    """

    name: str
    version: str
    sha256: str
    tree_sha256: str

    @property
    def detectron2_version(self) -> str:
        """The version that the rebuilt distribution gets; it satisfies `detectron2==0.6`."""
        return f"0.6+{self.name.lower()}{self.version}"


PINNED = CarrierWheel(
    name="LabGym",
    version="3.1.2",
    sha256="a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b",
    tree_sha256="a2eaa5c16a6baa35be2af9efbfd4a440de4119a6945adf3eb220b43b6f71f51a",
)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def extract_tree(wheel: Path, carrier: CarrierWheel) -> dict[str, bytes]:
    """Read the copy of Detectron2 out of `wheel` and restore its import name.

    Args:
        wheel: the carrying wheel.
        carrier: says below which folder the copy lies (`<name>/detectron2/`).

    Returns:
        Path in the new wheel (`detectron2/...`) to content, sorted by path.

    Raises:
        InstallError: `wheel` is no zip file or holds no copy of Detectron2.
    """
    prefix = f"{carrier.name}/{PACKAGE}/"
    carried_name = f"{carrier.name}.{PACKAGE}".encode()
    files = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if not entry.startswith(prefix) or entry.endswith("/"):
                    continue
                content = archive.read(entry)
                if entry.endswith(".py"):
                    content = content.replace(carried_name, PACKAGE.encode())
                files[entry[len(carrier.name) + 1 :]] = content
    except zipfile.BadZipFile as error:
        raise InstallError(f"{wheel.name} is not a readable wheel: {error}") from error
    if f"{PACKAGE}/__init__.py" not in files:
        raise InstallError(f"{wheel.name} holds no {prefix}__init__.py")
    return dict(sorted(files.items()))


def tree_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the names and contents of `files`, independent of their order."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n".encode())
    return total.hexdigest()


def _metadata(carrier: CarrierWheel, requirements: Iterable[str]) -> bytes:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {PACKAGE}",
        f"Version: {carrier.detectron2_version}",
        f"Summary: Detectron2, the copy in {carrier.name} {carrier.version}, no C++ extension",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "License: Apache-2.0",
        "Requires-Python: >=3.7",
        *(f"Requires-Dist: {requirement}" for requirement in requirements),
        "",
    ]
    return "\n".join(lines).encode()


def _record(files: Mapping[str, bytes], record_name: str) -> bytes:
    """The RECORD of a wheel: path, urlsafe base64 SHA-256 without padding, size in bytes."""
    rows = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}")
    rows.append(f"{record_name},,")
    return ("\n".join(rows) + "\n").encode()


def build_wheel(
    files: Mapping[str, bytes],
    folder: Path,
    *,
    carrier: CarrierWheel = PINNED,
    requirements: Iterable[str] = REQUIREMENTS,
) -> Path:
    """Write `files` as a wheel named detectron2; the same input gives the same bytes.

    Args:
        files: path in the wheel to content, as `extract_tree` returns it.
        folder: where the wheel is written; made if missing.
        carrier: gives the version.
        requirements: the `Requires-Dist` entries.

    Returns:
        The path of the wheel.
    """
    version = carrier.detectron2_version
    info = f"{PACKAGE}-{version}.dist-info"
    entries = dict(files)
    entries[f"{info}/METADATA"] = _metadata(carrier, requirements)
    entries[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: dynamic_routing\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n"
    )
    entries[f"{info}/top_level.txt"] = f"{PACKAGE}\n".encode()
    entries[f"{info}/RECORD"] = _record(entries, f"{info}/RECORD")
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{PACKAGE}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name, ENTRY_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = ENTRY_MODE << 16
            archive.writestr(entry, content)
    return wheel


def wheel_from_carrier(carrier_file: Path, folder: Path, carrier: CarrierWheel = PINNED) -> Path:
    """Check the carrying wheel, take Detectron2 out of it, check that, and write its wheel.

    Args:
        carrier_file: the downloaded wheel.
        folder: where the Detectron2 wheel is written.
        carrier: the two digests to hold against.

    Returns:
        The path of the Detectron2 wheel.

    Raises:
        InstallError: a digest differs; nothing is written then.
    """
    found = sha256_of(carrier_file)
    if found != carrier.sha256:
        raise InstallError(
            f"SHA-256 of {carrier_file.name} is {found}, expected {carrier.sha256}: refused"
        )
    files = extract_tree(carrier_file, carrier)
    found = tree_digest(files)
    if found != carrier.tree_sha256:
        raise InstallError(
            f"SHA-256 over the {len(files)} Detectron2 files in {carrier_file.name} is {found}, "
            f"expected {carrier.tree_sha256}: refused"
        )
    return build_wheel(files, folder, carrier=carrier)
