"""Training of the toy networks: static, oracle, DR and DivDR, many seeds at once.

All seeds of a setting share each forward and backward pass as one batch of matrices, but no number:
a seed's result does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynamic_routing.divdr.clustering import Clustering, cluster, nearest_rows
from dynamic_routing.divdr.loss import divdr_loss
from dynamic_routing.divdr.metrics import inter_distance, intra_pair_distance
from dynamic_routing.divdr.sources import choose_subset
from dynamic_routing.studies.recovery import purity, recovery
from dynamic_routing.studies.settings import Setting
from dynamic_routing.studies.toy import (
    GATES,
    Samples,
    ToyNetwork,
    ToyProblem,
    open_gates,
    oracle_gates,
    stack,
)

ITERATIONS = 1200
BATCH = 64
LEARNING_RATE = 0.05
POLY_POWER = 0.9
HELD_OUT = 2000
SUBSET_SIZE = 512
"""Samples of source ``subset``."""
HELD_OUT_STARTS = 10
"""k-means++ starts on the held-out gates; the best of them counts."""
CHUNK = 4096
"""Samples a seed that a pass without gradient takes at a time."""

# Independent random streams of one seed.
DATA_STREAM = 1_000_000
BATCH_STREAM = 2_000_000

FIXED_GATES: dict[str, Callable[[Samples], Tensor]] = {
    "static": open_gates,
    "oracle": oracle_gates,
}


@dataclass(frozen=True)
class Outcome:
    """What one seed came to on held-out samples.

    Attributes:
        seed: the seed.
        accuracy: share of correct labels.
        open_share: share of gates above 0: the executed cost.
        mean_gate: mean gate: the expected cost.
        recovery: best one-to-one matching of k-means clusters of the held-out gates with the
            subsets; like all that follows NaN for networks whose gates are given.
        recovery_own: the same with the training's own last centres; NaN without any.
        purity: share of the samples in the largest subset of their cluster.
        inter: mean distance between two centres.
        intra_pair: mean distance between two samples of a cluster.
        intra_center: mean distance of a sample to its centre.
        clusterings: how many there were in training.
        reseeded: how many centres were started anew in them.
        diverged: whether the training ended in numbers that are not finite.
    """

    seed: int
    accuracy: float
    open_share: float
    mean_gate: float
    recovery: float = math.nan
    recovery_own: float = math.nan
    purity: float = math.nan
    inter: float = math.nan
    intra_pair: float = math.nan
    intra_center: float = math.nan
    clusterings: int = 0
    reseeded: int = 0
    diverged: bool = False

    @property
    def ratio(self) -> float:
        """inter / intra_pair: how far apart for how tight; NaN for gates without any spread."""
        return self.inter / self.intra_pair if self.intra_pair > 0 else math.nan


def train(setting: Setting, seeds: Sequence[int], *, iterations: int = ITERATIONS) -> list[Outcome]:
    """Train one network a seed and measure each on held-out samples.

    Args:
        setting: what to run.
        seeds: S seeds, which also make the data.
        iterations: of 64 samples each.

    Raises:
        ValueError: no seeds.
    """
    if not seeds:
        raise ValueError("training needs at least one seed")
    data = [_data(seed, setting.samples) for seed in seeds]
    training, held_out = (stack(parts) for parts in zip(*data))
    network = ToyNetwork(seeds)
    batches = _Batches(seeds, setting.samples)
    clusters = _Clusters(setting, seeds, training) if setting.method == "divdr" else None
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    fixed = FIXED_GATES.get(setting.method)
    for iteration in range(iterations):
        progress = iteration / iterations
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - progress) ** POLY_POWER
        if clusters is not None:
            clusters.update(network, iteration, iterations)
        index = next(batches)
        batch = training.take(index)
        output = network(batch.inputs, fixed(batch) if fixed else None)
        losses = F.binary_cross_entropy_with_logits(
            output.logits, batch.labels, reduction="none"
        ).mean(dim=1)
        losses = losses + budget_loss(setting, output.gates, progress)
        if clusters is not None:
            clusters.record(index, output.gates)
            losses = losses + clusters.loss(output.gates)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    return _measure(setting, seeds, network, held_out, clusters)


def budget_loss(setting: Setting, gates: Tensor, progress: float) -> Tensor:
    """lambda_1 (mean gate - mu)^2, image by image and averaged, for each seed (S,).

    Every expert costs the same, so the mean gate is the share of the full expected cost.
    """
    factor = setting.budget_weight * setting.budget_schedule.strength(progress)
    return factor * (gates.mean(dim=2) - setting.budget_mu).square().mean(dim=1)


class _Batches:
    """Index (S, 64) of a batch: each seed goes through its training set in an order of its own."""

    def __init__(self, seeds: Sequence[int], samples: int) -> None:
        self._generators = [torch.Generator().manual_seed(BATCH_STREAM + seed) for seed in seeds]
        self._samples = samples
        self._order = torch.empty(len(seeds), 0, dtype=torch.int64)

    def __next__(self) -> Tensor:
        if self._order.shape[1] < BATCH:
            orders = [torch.randperm(self._samples, generator=g) for g in self._generators]
            self._order = torch.stack(orders)
        index, self._order = self._order[:, :BATCH], self._order[:, BATCH:]
        return index


class _Clusters:
    """Centres and variances of S seeds, and where they come from."""

    def __init__(self, setting: Setting, seeds: Sequence[int], training: Samples) -> None:
        self._setting = setting
        self._seeds = seeds
        self._last: int | None = None
        self._loss = torch.vmap(
            partial(divdr_loss, margin=setting.margin, norm_power=setting.norm_power)
        )
        self.count = 0
        self.reseeded = [0] * len(seeds)
        self.centres = torch.zeros(len(seeds), setting.clusters, GATES)
        self.variances = torch.ones(len(seeds))
        self._bank = torch.zeros(len(seeds), setting.samples, GATES)
        self._seen = torch.zeros(len(seeds), setting.samples, dtype=torch.bool)
        self._fresh: Samples | None = None
        if setting.source != "bank":
            size = SUBSET_SIZE if setting.source == "subset" else setting.samples
            chosen = [choose_subset(setting.samples, size, seed=seed) for seed in seeds]
            self._fresh = training.take(torch.tensor(chosen))

    def record(self, index: Tensor, gates: Tensor) -> None:
        """Keep a batch's gates (S, B, 12) as the latest of their samples."""
        seeds = torch.arange(len(index))[:, None]
        self._bank[seeds, index] = gates.detach()
        self._seen[seeds, index] = True

    def update(self, network: ToyNetwork, iteration: int, iterations: int) -> None:
        """Cluster, where it is time and there are enough samples."""
        if not self._setting.schedule.due(iteration, self._last, iterations):
            return
        rows = self._rows(network)
        if min(len(part) for part in rows) < self._setting.clusters:
            return
        for number, part in enumerate(rows):
            if np.isfinite(part).all():
                self._take(number, part)
        self._last = iteration
        self.count += 1

    def _rows(self, network: ToyNetwork) -> list[np.ndarray]:
        """The activations to cluster, (N, 12) for each seed."""
        if self._fresh is not None:
            return list(_gates(network, self._fresh.inputs).numpy())
        return [part[seen].numpy() for part, seen in zip(self._bank, self._seen)]

    def _take(self, number: int, rows: np.ndarray) -> None:
        """Cluster one seed's activations."""
        found = cluster(
            rows,
            self._setting.clusters,
            initial_centres=self.centres[number].numpy() if self.count else None,
            seed=self._seeds[number],
            reseed=self._setting.reseed,
        )
        self.centres[number] = torch.from_numpy(found.centres)
        self.variances[number] = found.variance
        self.reseeded[number] += len(found.reseeded)

    def loss(self, gates: Tensor) -> Tensor:
        """lambda_2 times the mean loss of each seed (S,); 0 before the first clustering."""
        if not self.count:
            return torch.zeros(len(gates))
        # divdr_loss takes one network's (B, 12); vmap gives it the S networks at once.
        return self._setting.weight * self._loss(gates, self.centres, self.variances).mean(dim=1)


def _data(seed: int, samples: int) -> tuple[Samples, Samples]:
    """Training and held-out samples of one seed's problem."""
    generator = torch.Generator().manual_seed(DATA_STREAM + seed)
    problem = ToyProblem.random(generator)
    held_out = problem.draw(HELD_OUT, generator)
    return problem.draw(samples, generator), held_out


@torch.no_grad()
def _gates(network: ToyNetwork, inputs: Tensor) -> Tensor:
    """The network's gates (S, N, 12), in parts that fit the memory."""
    return torch.cat([network(part).gates for part in inputs.split(CHUNK, dim=1)], dim=1)


@torch.no_grad()
def _measure(
    setting: Setting,
    seeds: Sequence[int],
    network: ToyNetwork,
    held_out: Samples,
    clusters: _Clusters | None,
) -> list[Outcome]:
    """The outcome of every seed."""
    fixed = FIXED_GATES.get(setting.method)
    output = network(held_out.inputs, fixed(held_out) if fixed else None)
    right = (output.logits > 0) == (held_out.labels > 0)
    outcomes = []
    for number, seed in enumerate(seeds):
        gates = output.gates[number]
        finite = bool(torch.isfinite(output.logits[number]).all())
        numbers: dict[str, float] = {}
        if fixed is None and finite:
            centres = clusters.centres[number] if clusters and clusters.count else None
            subsets = held_out.subsets[number].numpy()
            numbers = _cluster_numbers(setting, seed, gates.numpy(), subsets, centres)
        outcomes.append(
            Outcome(
                seed=seed,
                accuracy=float(right[number].float().mean()),
                open_share=float((gates > 0).float().mean()),
                mean_gate=float(gates.mean()),
                clusterings=clusters.count if clusters else 0,
                reseeded=clusters.reseeded[number] if clusters else 0,
                diverged=not finite,
                **numbers,
            )
        )
    return outcomes


def _cluster_numbers(
    setting: Setting, seed: int, gates: np.ndarray, subsets: np.ndarray, own: Tensor | None
) -> dict[str, float]:
    """Recovery and distances; the same procedure for DR and DivDR."""
    found: Clustering = cluster(gates, setting.clusters, seed=seed, n_init=HELD_OUT_STARTS)
    numbers = {
        "recovery": recovery(found.labels, subsets),
        "purity": purity(found.labels, subsets),
        "inter": inter_distance(found.centres),
        "intra_pair": intra_pair_distance(gates, found.labels),
        "intra_center": float(np.linalg.norm(gates - found.centres[found.labels], axis=1).mean()),
    }
    if own is not None:
        numbers["recovery_own"] = recovery(nearest_rows(gates, own.numpy())[0], subsets)
    return numbers
