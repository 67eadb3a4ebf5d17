"""Dynamic Routing and Diversified Dynamic Routing as a Detectron2 extension.

The method itself lives in :mod:`dynamic_routing.routing` and needs PyTorch alone; everything that
touches Detectron2 is imported lazily, on first use of one of the names in ``__all__``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "add_dynamic_routing_config": "dynamic_routing.modeling.config",
    "get_config": "dynamic_routing.modeling.config",
    "load_pretrained": "dynamic_routing.engine.pretrained",
    "RoutingNetwork": "dynamic_routing.routing",
    "RoutingSpace": "dynamic_routing.routing",
}

__all__ = [
    "__version__",
    "add_dynamic_routing_config",
    "get_config",
    "load_pretrained",
    "RoutingNetwork",
    "RoutingSpace",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that owns it (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
