"""What a training run left in its folder, read for a report. The folder may be a stranger's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dynamic_routing.analysis.clusters import ClusteredRoutes
from dynamic_routing.analysis.curves import TrainingLog, read_training_log
from dynamic_routing.analysis.report import MissingPartError, NotAvailable, need
from dynamic_routing.analysis.run_folder import Results, read_results
from dynamic_routing.analysis.space_map import SpaceMap, space_map
from dynamic_routing.evaluation.gates_file import GatesFile, load_gates
from dynamic_routing.evaluation.image_scores import METRICS, ImageScores, load_scores, scores_path
from dynamic_routing.modeling.config import get_config

T = TypeVar("T")

GATES_PREFIX = "gates_"
OWN = "trained"
"""The run's own network among those that a report compares."""


@dataclass(frozen=True, eq=False)
class RunFiles:
    """The files of one run; any of them may be missing.

    Attributes:
        folder: its OUTPUT_DIR.
        title: what it is called.
        dataset: the data set whose gates, scores and images are shown; "" if unknown.
        results: network -> results of its evaluation; the first is the run's own.
        log: scalars of the training.
        gates: every image's route.
        scores: how good each image was.
        settings: the config, a ``CfgNode``.
    """

    folder: Path
    title: str
    dataset: str
    results: Mapping[str, Results] | NotAvailable
    log: TrainingLog | NotAvailable
    gates: GatesFile | NotAvailable
    scores: ImageScores | NotAvailable
    settings: Any

    @property
    def cost_name(self) -> str:
        """The cost by which images are cheap or dear: ``gmacs``, else the first one.

        Raises:
            MissingPartError: no gates file, or one without costs.
        """
        costs = need(self.gates).costs
        if not costs:
            raise MissingPartError("the gates file holds no costs")
        return "gmacs" if "gmacs" in costs else next(iter(costs))

    @property
    def costs(self) -> np.ndarray:
        """(N,) of :attr:`cost_name`."""
        return np.asarray(need(self.gates).costs[self.cost_name])

    @property
    def score_name(self) -> str:
        """The metric that ranks images.

        Raises:
            MissingPartError: no scores file, or one without a metric.
        """
        name = need(self.scores).ranking
        if not name:
            raise MissingPartError("the scores file holds no metric that ranks images")
        return name

    @property
    def image_scores(self) -> np.ndarray:
        """(N,) of :attr:`score_name`, in the order of the gates file, NaN where unknown."""
        return need(self.scores).of(self.score_name, need(self.gates).file_names)

    def all_scores(self) -> dict[str, np.ndarray]:
        """Title -> (N,) of every known metric; empty without scores."""
        if isinstance(self.scores, NotAvailable):
            return {}
        names, known = need(self.gates).file_names, self.scores.metrics
        return {title: self.scores.of(m, names) for m, title in METRICS.items() if m in known}

    @cached_property
    def clusters(self) -> ClusteredRoutes:
        """The gates by cluster.

        Raises:
            MissingPartError: no gates file, or a network without clusters.
        """
        gates = need(self.gates)
        found = gates.clusters
        if found is None:
            raise MissingPartError(
                "the network has no clusters: it was not trained with DIVDR.NUM_CLUSTERS"
            )
        costs = {cost_title(name): values for name, values in gates.costs.items()}
        return ClusteredRoutes(gates.routes, found.labels, found.distances, found.centres, costs)

    @cached_property
    def space_map(self) -> SpaceMap:
        """The routes in the plane; t-SNE makes it slow.

        Raises:
            MissingPartError: no gates file.
        """
        gates = need(self.gates)
        found = gates.clusters
        return space_map(
            gates.routes.activations().numpy(),
            labels=None if found is None else found.labels,
            centres=None if found is None else found.centres,
        )


def cost_title(name: str) -> str:
    """What a column of costs is called."""
    titles = {"gmacs": "GMACs", "backbone_gmacs": "GMACs of the backbone",
              "paper_gflops": "FLOPs as the papers count (G)"}  # fmt: skip
    return titles.get(name, name)


def read_run(
    folder: str | Path,
    *,
    title: str = "",
    dataset: str = "",
    others: Mapping[str, Results] | None = None,
) -> RunFiles:
    """Read a run's folder. YAML without tags and JSON only; weights are not touched.

    Args:
        folder: its OUTPUT_DIR.
        title: what it is called; the folder's name by default.
        dataset: by default the first of DATASETS.TEST, else the only one that has gates.
        others: results of further networks to stand beside the run's own.

    Raises:
        ValueError: no such folder, or no gates of the data set that was asked for.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no such run folder: {folder}")
    inference = folder / "inference"
    settings = _settings(folder, inference)
    name = dataset or _dataset(settings, inference)
    gates_path = inference / f"{GATES_PREFIX}{name.replace('/', '_')}.npz"
    if dataset and not gates_path.is_file():
        known = ", ".join(_with_gates(inference)) or "none"
        raise ValueError(f"{folder} has no gates of data set {dataset}; it has those of: {known}")
    own = read_results(folder)
    unknown = NotAvailable(f"no data set is known: no config.yaml and no gates in {inference}")
    return RunFiles(
        folder=folder,
        title=title or folder.resolve().name,
        dataset=name,
        results=own if isinstance(own, NotAvailable) else {OWN: own, **(others or {})},
        log=_attempt("metrics.json", lambda: read_training_log(folder / "metrics.json")),
        gates=_attempt(gates_path.name, lambda: load_gates(gates_path)) if name else unknown,
        scores=_scores(scores_path(inference, name)) if name else unknown,
        settings=settings,
    )


def _settings(folder: Path, inference: Path) -> Any:
    """The config of the training, or else that of the evaluation."""
    for path in (folder / "config.yaml", inference / "config.yaml"):
        if path.is_file():
            return _attempt(path.name, partial(get_config, path))
    return NotAvailable("config.yaml is not there")


def _scores(path: Path) -> ImageScores | NotAvailable:
    """Scores of the images; runs of earlier versions have none."""
    if not path.is_file():
        return NotAvailable(
            f"{path.name} is not there; train_net.py --eval-only writes it beside the gates"
        )
    return _attempt(path.name, lambda: load_scores(path))


def _attempt(what: str, read: Callable[[], T]) -> T | NotAvailable:
    """What a file holds, or the reason why not, without the path of this machine."""
    try:
        return read()
    except OSError as error:
        return NotAvailable(f"{what}: {error.strerror or error}")
    except ValueError as error:
        return NotAvailable(f"{what}: {error}")


def _dataset(settings: Any, inference: Path) -> str:
    """The first test data set of the config, else the only one that has gates."""
    known = _with_gates(inference)
    if not isinstance(settings, NotAvailable) and settings.DATASETS.TEST:
        first = str(settings.DATASETS.TEST[0])
        return first if first.replace("/", "_") in known or not known else known[0]
    return known[0] if len(known) == 1 else ""


def _with_gates(inference: Path) -> list[str]:
    """Data sets that have a gates file, as their file names call them."""
    files = sorted(inference.glob(f"{GATES_PREFIX}*.npz"))
    return [file.stem.removeprefix(GATES_PREFIX) for file in files]
