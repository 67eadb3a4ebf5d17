#!/usr/bin/env python3
"""Measure how long a clustering of routes takes, and what share of a training that is.

Examples:
    python tools/benchmark_clustering.py
    # the share for your own iteration time and period, on two threads
    python tools/benchmark_clustering.py --iteration-seconds 0.35 --period 100 --threads 2

Routes are made up: in each cluster every gate is open with a probability of its own. Sizes are
those of Cityscapes with 16 layers (3,000 x 183) and of COCO with 17 (118,000 x 198).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np

from dynamic_routing.divdr.bank import GateBank
from dynamic_routing.divdr.clustering import cluster
from dynamic_routing.divdr.metrics import cluster_metrics
from dynamic_routing.engine.kmeans_hook import LOGGED_PAIR_ROWS

SIZES = ((3_000, 183), (118_000, 198))


@dataclass(frozen=True)
class Timing:
    """Seconds: a first clustering, a later one, its metrics, and a snapshot of the bank."""

    cold: float
    warm: float
    metrics: float
    snapshot: float

    def share(self, iteration_seconds: float, period: int) -> float:
        """What later clusterings add, as a share of the training without them."""
        return (self.warm + self.metrics + self.snapshot) / (period * iteration_seconds)


def made_up_routes(images: int, dim: int, clusters: int, *, seed: int) -> np.ndarray:
    """(N, A) float32 gates: 0 where closed, else between 0.3 and 1."""
    generator = np.random.default_rng(seed)
    rate = generator.random((clusters, dim), dtype=np.float32)
    truth = generator.integers(clusters, size=images)
    opened = generator.random((images, dim), dtype=np.float32) < rate[truth]
    return opened * generator.uniform(0.3, 1, (images, dim)).astype(np.float32)


def measure(rows: np.ndarray, clusters: int, *, threads: int, repeats: int, seed: int) -> Timing:
    """Time one first clustering and the median of some later ones, on routes that move a bit."""
    names = [f"image_{i:06d}.png" for i in range(len(rows))]
    bank = GateBank(rows.shape[1])
    bank.record(names, rows, 0)
    found = cluster(rows, clusters, seed=seed, threads=threads)
    cold, warm, metrics, snapshots = found.seconds, [], [], []
    generator = np.random.default_rng(seed)
    for _ in range(repeats):
        moved = rows + 0.05 * generator.standard_normal(rows.shape, dtype=np.float32) * (rows > 0)
        found = cluster(moved, clusters, initial_centres=found.centres, threads=threads)
        warm.append(found.seconds)
        start = time.perf_counter()
        cluster_metrics(moved, found.centres, pair_rows=LOGGED_PAIR_ROWS)
        metrics.append(time.perf_counter() - start)
        start = time.perf_counter()
        bank.snapshot()
        snapshots.append(time.perf_counter() - start)
    return Timing(cold, *(statistics.median(t) for t in (warm, metrics, snapshots)))


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clusters", type=int, default=4, metavar="K")
    parser.add_argument("--iteration-seconds", type=float, default=0.5, metavar="S")
    parser.add_argument("--period", type=int, default=50, help="iterations between clusterings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, nargs="*", help="instead of 3,000 and 118,000")
    args = parser.parse_args(argv)
    sizes = SIZES if not args.images else [(n, SIZES[-1][1]) for n in args.images]
    cluster(np.eye(4, dtype=np.float32), 2)  # imports scikit-learn
    print(f"K = {args.clusters}, {args.threads} thread(s), milliseconds")
    print("images x A      cold     warm  metrics  snapshot  share of training")
    for images, dim in sizes:
        rows = made_up_routes(images, dim, args.clusters, seed=args.seed)
        timing = measure(
            rows, args.clusters, threads=args.threads, repeats=args.repeats, seed=args.seed
        )
        values = (timing.cold, timing.warm, timing.metrics, timing.snapshot)
        numbers = "".join(f"{1000 * v:9.1f}" for v in values)
        share = timing.share(args.iteration_seconds, args.period)
        print(f"{images:6d} x {dim}{numbers}  {share:8.2%}")
    print(f"share at {args.iteration_seconds:g} s an iteration, every {args.period} iterations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
