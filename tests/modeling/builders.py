"""Small Detectron2 models and batches, for the tests of modeling, engine and train_net."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from dynamic_routing.modeling import get_config
from tests.routing.builders import randomise

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
QUICK = CONFIGS / "quick" / "Base-Quick.yaml"
CLASSES = 5
SMALL = (
    "MODEL.DEVICE cpu MODEL.DYNAMIC_ROUTING.SPACE.NUM_LAYERS 3 MODEL.DYNAMIC_ROUTING.WIDTH 4 "
    f"MODEL.DYNAMIC_ROUTING.GATE.SMALL False MODEL.SEM_SEG_HEAD.NUM_CLASSES {CLASSES}"
).split()

PLAIN = ("MODEL.META_ARCHITECTURE", "SemanticSegmentor")
FPN_HEAD = (
    "MODEL.SEM_SEG_HEAD.NAME SemSegFPNHead MODEL.SEM_SEG_HEAD.CONVS_DIM 8 "
    "MODEL.SEM_SEG_HEAD.NORM BN"
).split()
PSP = ("MODEL.DYNAMIC_ROUTING.PYRAMID_POOLING", "True")


def small_config(*overrides: Any) -> CfgNode:
    """Three layers of width 4, five classes, on the CPU."""
    return get_config(QUICK, [*SMALL, *overrides])


def small_model(*overrides: Any, seed: int | None = None, bias: float = -0.1) -> nn.Module:
    """The model of :func:`small_config`; with a seed, routes that differ between images."""
    model = build_model(small_config(*overrides))
    if seed is not None:
        randomise(model, seed=seed, bias=bias)
    return model


def batch(*sizes: tuple[int, int], labels: bool = True, seed: int = 0) -> list[dict[str, Any]]:
    """Images of these (height, width), each of another brightness, with labels of their size."""
    generator = torch.Generator().manual_seed(seed)
    inputs = []
    for i, size in enumerate(sizes):
        image = torch.rand(3, *size, generator=generator) * 80 * (1 + i % 3) + 10 * i
        entry: dict[str, Any] = {"image": image, "file_name": f"{seed}/{i}.png"}
        if labels:
            # What can be learned: the brightness of a patch.
            entry["sem_seg"] = (image.mean(dim=0) / 50).long().clamp(max=CLASSES - 1)
        inputs.append(entry)
    return inputs


@contextmanager
def weightless() -> Iterator[None]:
    """Build modules without memory and, which is what takes the time, without initial values."""

    def leave(weight: torch.Tensor, *_arguments: object, **_options: object) -> torch.Tensor:
        return weight

    with torch.device("meta"), mock.patch.object(nn.init, "kaiming_normal_", leave):
        yield


def yaml_files(*, leaves: bool = False) -> Sequence[Path]:
    """Every config, or those that stand for a run."""
    files = sorted(CONFIGS.rglob("*.yaml"))
    return [file for file in files if not leaves or not file.name.startswith("Base-")]


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest deviation relative to the largest magnitude of ``b``."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))
