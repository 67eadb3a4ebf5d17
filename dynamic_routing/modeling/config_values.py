"""Values of a config as users write them, in the types that yacs insists on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode


def of_type(value: Any, default: Any) -> Any:
    """What YAML writes as its nearest type, as the type of the default."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, str) and isinstance(value, str):
        return repr(value)  # yacs reads texts as Python: a folder "2026" would become a number
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    return value


def with_floats(cfg: CfgNode, overrides: Sequence[str]) -> list[str]:
    """Command-line overrides with whole numbers as floats where the default is one."""
    values = list(overrides)
    for i in range(0, len(values), 2):
        node: Any = cfg
        for part in values[i].split("."):
            node = node.get(part) if isinstance(node, CfgNode) else None
        if isinstance(node, float) and re.fullmatch(r"[+-]?\d+", str(values[i + 1])):
            values[i + 1] = f"{values[i + 1]}.0"
    return values
