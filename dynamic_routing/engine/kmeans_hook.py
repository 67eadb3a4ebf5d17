"""The hook that alternates clustering with training (Csaba et al. 2022, Sec. 3.2)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from dynamic_routing.divdr.bank import GateBank, Snapshot
from dynamic_routing.divdr.clustering import Clustering, cluster
from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.divdr.metrics import cluster_metrics
from dynamic_routing.divdr.schedule import ClusteringSchedule
from dynamic_routing.divdr.sources import ActivationSource, BankSource
from dynamic_routing.engine.activation_passes import build_pass_source

LOGGED_PAIR_ROWS = 2000
"""Images whose pairs the logged ``intra_pair`` takes at most: some 30 ms a clustering."""

logger = logging.getLogger(__name__)


class GateKMeansHook(HookBase):
    """Clusters the routes from time to time and hands centres and variance to the loss.

    The main process clusters; all processes take its result. From the second time on k-means goes
    on from the centres before, so that clusters keep their numbers. While fewer images are there
    than clusters it waits. A new training starts without clusters, whatever weights it loads; a
    resumed one continues bit by bit.

    Args:
        loss: the model's.
        source: where the activations come from.
        schedule: when to cluster.
        seed: of k-means++ and of the metrics' samples.
        reseed: whether clusters that became empty or equal start anew.
        checkpoint_period: iterations between checkpoints; before each the banks of all processes
            are merged, since the main process alone writes. 0: at the end only.
    """

    def __init__(
        self,
        loss: DivDRLoss,
        source: ActivationSource,
        *,
        schedule: ClusteringSchedule,
        seed: int = 0,
        reseed: bool = True,
        checkpoint_period: int = 0,
    ) -> None:
        self._loss = loss
        self._source = source
        self._schedule = schedule
        self._seed = seed
        self._reseed = reseed
        self._checkpoint_period = checkpoint_period
        self._last: int | None = None
        self._collapsed = False
        self._seconds = 0.0
        self._started = time.perf_counter()

    def before_train(self) -> None:
        """Start to collect."""
        self._started = time.perf_counter()
        if self.trainer.start_iter == 0:
            self._loss.reset()
        if self._source.bank is not None:
            self._loss.sink = self._record

    def after_train(self) -> None:
        """Collect no longer."""
        self._loss.sink = None

    def _record(self, activations: np.ndarray, names: Sequence[str]) -> None:
        """Put a batch of this process into its bank."""
        assert self._source.bank is not None, "nothing to record into"
        self._source.bank.record(names, activations, self.trainer.iter)

    def before_step(self) -> None:
        """Cluster where it is time."""
        if self._schedule.due(self.trainer.iter, self._last, self.trainer.max_iter):
            self._update()

    def after_step(self) -> None:
        """Merge the banks where a checkpoint is about to be written."""
        done, period = self.trainer.iter + 1, self._checkpoint_period
        writes = done >= self.trainer.max_iter or (period > 0 and done % period == 0)
        if writes and self._source.bank is not None:
            self._source.bank.synchronise(comm.all_gather)

    def _update(self) -> None:
        """One clustering, or nothing if there are too few images yet."""
        with self._timed():
            snapshot = self._source.collect(self.trainer.iter)
            found = self._cluster(snapshot) if comm.is_main_process() else None
            message = None if found is None else (found.centres, found.variance)
            message = comm.all_gather(message)[0]
        if message is None:
            return
        if self._last is None:
            logger.info("iteration %d: first clusters, the DivDR loss starts", self.trainer.iter)
        centres, variance = message
        self._loss.set_clusters(torch.from_numpy(centres), variance)
        self._last = self.trainer.iter
        if found is not None:
            self._log(found, snapshot)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count what happens inside as time that the clustering takes."""
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start

    def _cluster(self, snapshot: Snapshot) -> Clustering | None:
        """What k-means says; None before there are K images."""
        centres = self._loss.centres.cpu().numpy()
        if len(snapshot) < len(centres):
            return None
        return cluster(
            snapshot.activations,
            len(centres),
            initial_centres=centres if self._loss.ready else None,
            seed=self._seed,
            reseed=self._reseed,
        )

    def _log(self, found: Clustering, snapshot: Snapshot) -> None:
        """``divdr/*``, and a line where something is wrong."""
        with self._timed():
            numbers = cluster_metrics(
                snapshot.activations, found.centres, seed=self._seed, pair_rows=LOGGED_PAIR_ROWS
            ).to_dict()
        numbers |= {
            "variance": found.variance,
            "images": len(snapshot),
            "distinct_routes": found.distinct_routes,
            "collapsed": float(found.collapsed),
            "reseeded": len(found.reseeded),
            "age_mean": snapshot.mean_age(self.trainer.iter),
            "active": float(self._loss.ready),
            "kmeans_seconds": found.seconds,
            "time_share": self._seconds / (time.perf_counter() - self._started),
        }
        for name, value in numbers.items():
            self.trainer.storage.put_scalar(f"divdr/{name}", value, smoothing_hint=False)
        if found.collapsed and not self._collapsed:
            logger.warning("iteration %d: %s", self.trainer.iter, found.collapse_reason)
        if found.degenerate:
            done = "started anew" if found.reseeded else "left as they are"
            logger.info(
                "iteration %d: clusters %s were empty or equal to another: %s",
                self.trainer.iter,
                list(found.degenerate),
                done,
            )
        self._collapsed = found.collapsed

    def state_dict(self) -> dict[str, Any]:
        """When it last clustered, and the bank; the centres are in the model."""
        state: dict[str, Any] = {"last": self._last, "collapsed": self._collapsed}
        if self._source.bank is not None:
            state["bank"] = self._source.bank.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`; another source than before starts without images."""
        self._last = state_dict["last"]
        self._collapsed = state_dict["collapsed"]
        if self._source.bank is not None and "bank" in state_dict:
            self._source.bank.load_state_dict(state_dict["bank"])


def build_kmeans_hook(cfg: CfgNode, model: nn.Module) -> GateKMeansHook | None:
    """The hook that DIVDR.NUM_CLUSTERS asks for, or None.

    Args:
        cfg: the config.
        model: the meta-architecture, without DistributedDataParallel around it.

    Raises:
        ValueError: clusters are asked for and the model would silently ignore that.
    """
    divdr = cfg.MODEL.DYNAMIC_ROUTING.DIVDR
    if not divdr.NUM_CLUSTERS:
        return None
    loss = next((m for m in model.modules() if isinstance(m, DivDRLoss)), None)
    if loss is None:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no losses on routes: set "
            "DIVDR.NUM_CLUSTERS to 0 or take a DynamicRouting one"
        )
    return GateKMeansHook(
        loss,
        build_source(cfg, model, activation_dim=loss.centres.shape[1]),
        schedule=ClusteringSchedule(divdr.PERIOD, divdr.PERIOD_FINAL, divdr.START_ITER),
        seed=divdr.SEED,
        reseed=divdr.RESEED,
        checkpoint_period=cfg.SOLVER.CHECKPOINT_PERIOD,
    )


def check_images(cfg: CfgNode, count: int | None) -> None:
    """Refuse training images that cannot be clustered, before anything is trained.

    Args:
        cfg: the config.
        count: number of training images, None if unknown.

    Raises:
        ValueError: fewer images than clusters, or more than the bank may keep.
    """
    divdr = cfg.MODEL.DYNAMIC_ROUTING.DIVDR
    if not divdr.NUM_CLUSTERS or count is None:
        return
    if count < divdr.NUM_CLUSTERS:
        raise ValueError(
            f"DIVDR.NUM_CLUSTERS {divdr.NUM_CLUSTERS} needs at least as many training images, "
            f"DATASETS.TRAIN has {count}"
        )
    if divdr.SOURCE == "bank" and count > divdr.MAX_IMAGES:
        raise ValueError(
            f"DATASETS.TRAIN has {count} images, the gate bank keeps at most {divdr.MAX_IMAGES}: "
            "raise DIVDR.MAX_IMAGES or take DIVDR.SOURCE subset"
        )


def build_source(cfg: CfgNode, model: nn.Module, *, activation_dim: int) -> ActivationSource:
    """What DIVDR.SOURCE names."""
    divdr = cfg.MODEL.DYNAMIC_ROUTING.DIVDR
    if divdr.SOURCE != "bank":
        return build_pass_source(cfg, model, activation_dim=activation_dim)
    bank = GateBank(activation_dim, max_images=divdr.MAX_IMAGES)
    return BankSource(bank, gather=comm.all_gather)
