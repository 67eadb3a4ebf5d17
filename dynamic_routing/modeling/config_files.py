"""YAML configs as files: local, without Python tags, with a chain of ``_BASE_``.

Detectron2 reads configs through handlers that download (``http://``, ``detectron2://``) and, in
places, with Python tags. A config may come from a stranger, so here neither happens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

BASE = "_BASE_"


def load_yaml_chain(path: str | Path) -> dict[str, Any]:
    """A YAML file merged over what its ``_BASE_`` names.

    A base is a path, or a list of them, relative to the file that names it.

    Raises:
        ValueError: a base that is no local file or that leads back to itself, a file that holds no
            keys, or a key that is a group in one file and a value in the other.
        yaml.YAMLError: no YAML, or a Python tag.
    """
    return _load(Path(path), ())


def _load(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """One file and its bases; ``seen`` are the files that led here."""
    here = path.resolve()
    if here in seen:
        raise ValueError(f"{BASE} of {seen[-1]} leads back to {path}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold config keys, got {type(content).__name__}")
    bases = content.pop(BASE, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        _merge(_load(_local(base, path), (*seen, here)), merged, path)
    _merge(content, merged, path)
    return merged


def _local(base: object, path: Path) -> Path:
    """The file that ``_BASE_`` of ``path`` names."""
    if not isinstance(base, str) or "://" in base:
        raise ValueError(f"{BASE} of {path} must name a local file, got {base!r}")
    found = path.parent / Path(base).expanduser()
    if not found.is_file():
        raise ValueError(f"{BASE} of {path} does not exist: {found}")
    return found


def _merge(new: dict[str, Any], into: dict[str, Any], path: Path) -> None:
    """Put the keys of ``new`` over those of ``into``, group by group."""
    for key, value in new.items():
        present = into.get(key)
        if isinstance(value, dict) and isinstance(present, dict):
            _merge(value, present, path)
        elif isinstance(value, dict) and key in into:
            raise ValueError(f"{path}: {key} is a group of keys here and a value in its {BASE}")
        else:
            into[key] = value
