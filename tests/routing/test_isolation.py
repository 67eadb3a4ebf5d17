"""The core is pure PyTorch: it works where Detectron2 and fvcore cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
from importlib.abc import MetaPathFinder

FORBIDDEN = {"detectron2", "fvcore", "iopath", "pycocotools", "cv2", "torchvision"}
asked = []


class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FORBIDDEN:
            asked.append(name)
            raise ImportError(f"{name} is not there")
        return None


sys.meta_path.insert(0, Refuse())
import torch

assert not asked, asked
import dynamic_routing.routing as routing
from dynamic_routing.routing import RoutingNetwork, RoutingSpace, record_routes

network = RoutingNetwork(RoutingSpace.grid(4), width=8)
with record_routes(network) as records:
    network(torch.rand(2, 3, 32, 64))
    network.eval()(torch.rand(2, 3, 32, 64))
assert len(records) == 2
for name in routing.__all__:
    getattr(routing, name)
loaded = {name.split(".")[0] for name in sys.modules} & FORBIDDEN
assert not loaded and not asked, (loaded, asked)
try:
    import detectron2
except ImportError:
    print("works alone")
"""


def test_core_works_without_detectron2_and_fvcore():
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "works alone"
