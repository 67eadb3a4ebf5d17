"""Statistics, pictures and the report: functions over stored routes. Needs no Detectron2.

The names in ``__all__`` are imported on first use, so that the package needs no matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_LAZY = {
    "draw_route": "dynamic_routing.analysis.drawing",
    "grid_picture": "dynamic_routing.analysis.strip",
    "route_strip": "dynamic_routing.analysis.strip",
    "with_route": "dynamic_routing.analysis.strip",
}

__all__ = ["draw_route", "grid_picture", "route_strip", "with_route"]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that owns it (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
