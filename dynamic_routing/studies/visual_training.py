"""Training of visual networks: static, oracle, DR and DivDR, many seeds at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamic_routing.divdr.bank import GateBank
from dynamic_routing.divdr.clustering import cluster, count_distinct
from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.routing.budget import BudgetLoss
from dynamic_routing.routing.routes import Routes
from dynamic_routing.studies.visual_data import CLASSES, Scenes, generate_scenes
from dynamic_routing.studies.visual_measures import (
    VisualOutcome,
    accuracy_numbers,
    cluster_numbers,
    cost_numbers,
    predict,
)
from dynamic_routing.studies.visual_network import Ensemble, VisualNetwork
from dynamic_routing.studies.visual_settings import VisualSetting

BATCH = 12
LEARNING_RATE = 0.02
OPTIMIZER = torch.optim.Adam
POLY_POWER = 0.9
CLASS_WEIGHTS = torch.tensor([0.5] + [1.0] * (CLASSES - 1))
"""Of the cross entropy: four fifths of the pixels are background."""
TRAINING = 720
HELD_OUT = 300

# Independent random streams of one seed.
TRAINING_STREAM = 1_000_000
HELD_OUT_STREAM = 2_000_000
BATCH_STREAM = 3_000_000


@dataclass(frozen=True, eq=False)
class Trained:
    """Finished runs, one a seed.

    Attributes:
        outcomes: their numbers.
        ensemble: the networks.
        gates: (S, N, E) of the held-out scenes.
    """

    outcomes: list[VisualOutcome]
    ensemble: Ensemble
    gates: Tensor


def train(
    setting: VisualSetting,
    seeds: Sequence[int],
    *,
    training: int = TRAINING,
    held_out: int = HELD_OUT,
) -> Trained:
    """Train one network a seed and measure each on held-out scenes.

    Args:
        setting: what to run.
        seeds: S seeds of data, weights and batches.
        training: scenes to train on.
        held_out: scenes to measure on.

    Raises:
        ValueError: no seeds.
    """
    if not seeds:
        raise ValueError("training needs at least one seed")
    start = time.perf_counter()
    ensemble = Ensemble(setting.method, setting.layers, seeds)
    scenes = [_scenes(training, TRAINING_STREAM + seed, setting.labels) for seed in seeds]
    clusters: list[Clusters] = []
    if setting.method == "divdr":
        clusters = [Clusters(setting, seed, ensemble.base) for seed in seeds]
    _fit(setting, seeds, ensemble, scenes, clusters)
    del scenes
    others = [_scenes(held_out, HELD_OUT_STREAM + seed, setting.labels) for seed in seeds]
    return _measure(setting, seeds, ensemble, others, clusters, start)


@lru_cache(maxsize=32)
def _scenes(count: int, seed: int, labels: str) -> Scenes:
    """Scenes that the settings of one process share."""
    return generate_scenes(count, seed=seed, labels=labels)


def _fit(
    setting: VisualSetting,
    seeds: Sequence[int],
    ensemble: Ensemble,
    scenes: Sequence[Scenes],
    clusters: Sequence[Clusters],
) -> None:
    """The training steps. Losses are summed over seeds, so that none weighs on another."""
    budget = BudgetLoss(
        ensemble.base.cost,
        weight=setting.budget_weight,
        mu=setting.budget_mu,
        schedule=setting.budget_schedule,
    )
    optimizer = OPTIMIZER(ensemble.parameters.values(), lr=LEARNING_RATE)
    batches = [_Batches(len(scenes[0]), seed) for seed in seeds]
    ensemble.base.train()
    for iteration in range(setting.iterations):
        progress = iteration / setting.iterations
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - progress) ** POLY_POWER
        budget.set_progress(progress)
        for own in clusters:
            own.update(iteration)
        index = [next(b) for b in batches]
        images, subsets, targets = (
            torch.stack([getattr(s, name)[i] for s, i in zip(scenes, index)])
            for name in ("images", "subsets", "targets")
        )
        scores, gates = ensemble(images, subsets)
        loss = len(seeds) * F.cross_entropy(
            scores.flatten(0, 1), targets.flatten(0, 1), weight=CLASS_WEIGHTS
        )
        if setting.method != "static" and setting.budget_weight > 0:
            routes = ensemble.base.routes(gates.flatten(0, 1))
            loss = loss + len(seeds) * budget(routes)["loss_budget"]
        for number, own in enumerate(clusters):
            loss = loss + own.step(ensemble.base.routes(gates[number]), index[number])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class _Batches:
    """Index (B,) of a batch: through the training set in a new order each time."""

    def __init__(self, samples: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(BATCH_STREAM + seed)
        self._samples = samples
        self._order = torch.empty(0, dtype=torch.int64)

    def __next__(self) -> Tensor:
        while len(self._order) < BATCH:
            more = torch.randperm(self._samples, generator=self._generator)
            self._order = torch.cat([self._order, more])
        index, self._order = self._order[:BATCH], self._order[BATCH:]
        return index


class Clusters:
    """DivDR's loss for one seed, and the clusterings of a bank that feed it.

    Args:
        setting: when to cluster, and what.
        seed: of k-means++.
        network: of the space.
    """

    def __init__(self, setting: VisualSetting, seed: int, network: VisualNetwork) -> None:
        self._setting, self._seed = setting, seed
        self._last: int | None = None
        self._iteration = 0
        dim = network.backbone.space.activation_dim
        self.bank = GateBank(dim)
        self.loss = DivDRLoss(
            setting.clusters,
            dim,
            weight=setting.weight,
            margin=setting.margin,
            norm_power=setting.norm_power,
        )
        self.loss.sink = lambda rows, names: self.bank.record(names, rows, self._iteration)
        self.reseeded = 0

    def step(self, routes: Routes, index: Tensor) -> Tensor:
        """lambda_2 times the mean loss of a batch, whose activations go into the bank."""
        return self.loss(routes, [str(i) for i in index.tolist()])["loss_divdr"]

    def update(self, iteration: int) -> None:
        """Cluster, where it is time."""
        self._iteration = iteration
        if not self._setting.schedule.due(iteration, self._last, self._setting.iterations):
            return
        rows = self.bank.snapshot().activations
        if len(rows) < self._setting.clusters:
            return
        found = cluster(
            rows,
            self._setting.clusters,
            initial_centres=self.loss.centres.numpy() if bool(self.loss.ready) else None,
            seed=self._seed,
        )
        self.loss.set_clusters(torch.from_numpy(found.centres), found.variance)
        self.reseeded += len(found.reseeded)
        self._last = iteration


def _measure(
    setting: VisualSetting,
    seeds: Sequence[int],
    ensemble: Ensemble,
    scenes: Sequence[Scenes],
    clusters: Sequence[Clusters],
    start: float,
) -> Trained:
    """The outcomes on held-out scenes."""
    classes, gates = predict(ensemble, scenes)
    outcomes = []
    for number, seed in enumerate(seeds):
        routes = ensemble.base.routes(gates[number])
        rows, own = routes.activations().numpy(), clusters[number] if clusters else None
        numbers = accuracy_numbers(classes[number], scenes[number].targets)
        numbers |= cost_numbers(ensemble.base, routes, scenes[number].subsets)
        if setting.method in ("dr", "divdr"):
            centres = own.loss.centres.numpy() if own and bool(own.loss.ready) else None
            subsets = scenes[number].subsets.numpy()
            numbers |= cluster_numbers(rows, subsets, setting.clusters, seed=seed, own=centres)
        outcomes.append(
            VisualOutcome(
                seed=seed,
                distinct_routes=count_distinct(rows),
                reseeded=own.reseeded if own else 0,
                seconds=(time.perf_counter() - start) / len(seeds),
                **numbers,
            )
        )
    return Trained(outcomes, ensemble, gates)
