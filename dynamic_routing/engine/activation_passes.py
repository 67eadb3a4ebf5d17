"""Fresh forward passes for the clustering: the activations of training images as they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from detectron2.utils import comm
from torch import nn

from dynamic_routing.divdr.bank import GateBank, Snapshot
from dynamic_routing.divdr.sources import choose_subset
from dynamic_routing.engine.loaders import build_mapper
from dynamic_routing.engine.workers import with_quick_workers
from dynamic_routing.modeling.meta_arch import image_id
from dynamic_routing.routing import Routes, record_routes

Gather = Callable[[Snapshot], list[Snapshot]]


class _BackboneDone(Exception):
    """The backbone has run; the rest of the meta-architecture need not."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode and back, every module to the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def backbone_routes(model: nn.Module, batch: list[dict[str, Any]]) -> Routes:
    """The routes of a batch, by the meta-architecture's own preprocessing and without its heads.

    Args:
        model: a meta-architecture with a routed ``backbone``, in evaluation mode.
        batch: what the test-time mapper delivers, images of one padded size.

    Raises:
        ValueError: the backbone does not route once a forward, or the sizes differ.
    """
    backbone = model.backbone
    assert isinstance(backbone, nn.Module), f"not a backbone: {type(backbone).__name__}"

    def stop(_module: nn.Module, _inputs: object, _output: object) -> None:
        raise _BackboneDone

    with record_routes(backbone) as records:
        handle = backbone.register_forward_hook(stop)
        try:
            model(batch)
        except _BackboneDone:
            pass
        finally:
            handle.remove()
    if len(records) != 1:
        raise ValueError(f"a pass needs one routed forward, got {len(records)}")
    if len(records[0]) != len(batch):
        raise ValueError(f"a pass needs images of one padded size, got {len(batch)} of several")
    return records[0]


class PassSource:
    """Runs the backbone over images, without gradient and without heads.

    In evaluation mode: running statistics in the norms, no drop path, whole images with the
    test-time augmentation, full precision. The loss sees gates of training mode (batch statistics,
    crops), which the bank also keeps; these here are those of the network that is evaluated.
    Every module's mode is restored; parameters and statistics do not change.

    Args:
        model: a meta-architecture, without DistributedDataParallel around it.
        loader: this process's batches of images.
        activation_dim: A.
        gather: gives each process the parts of all.
    """

    bank: GateBank | None = None

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[list[dict[str, Any]]],
        *,
        activation_dim: int,
        gather: Gather = comm.all_gather,
    ) -> None:
        self._model = model
        self._loader = loader
        self._dim = activation_dim
        self._gather = gather

    def collect(self, iteration: int) -> Snapshot:
        """Pass over the images; they are split over the processes."""
        names: list[str] = []
        rows = [np.empty((0, self._dim), dtype=np.float32)]
        with evaluation_mode(self._model):
            for inputs in chain.from_iterable(self._loader):  # sizes differ: one by one
                names.append(image_id(inputs))
                rows.append(backbone_routes(self._model, [inputs]).detach().activations().numpy())
        stamps = np.full(len(names), iteration, dtype=np.int64)
        return merged(self._gather(Snapshot(tuple(names), np.concatenate(rows), stamps)))


def merged(parts: list[Snapshot]) -> Snapshot:
    """Each image of all parts once, in the order of their names."""
    names = [name for part in parts for name in part.names]
    position = {name: index for index, name in reversed(list(enumerate(names)))}
    order = [position[name] for name in sorted(position)]
    return Snapshot(
        tuple(names[i] for i in order),
        np.concatenate([part.activations for part in parts])[order],
        np.concatenate([part.stamps for part in parts])[order],
    )


def build_pass_source(cfg: CfgNode, model: nn.Module, *, activation_dim: int) -> PassSource:
    """The source of DIVDR.SOURCE subset or full: training images, test-time mapper."""
    divdr = cfg.MODEL.DYNAMIC_ROUTING.DIVDR
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    )
    if divdr.SOURCE == "subset":
        chosen = choose_subset(len(records), divdr.SUBSET_SIZE, seed=divdr.SEED)
        records = [records[i] for i in chosen]
    loader = build_detection_test_loader(
        records,
        mapper=build_mapper(cfg, cfg.DATASETS.TRAIN[0], train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    return PassSource(model, with_quick_workers(loader), activation_dim=activation_dim)
