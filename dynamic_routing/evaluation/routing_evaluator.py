"""What the gates did over a data set, as a Detectron2 evaluator."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from torch import Tensor

from dynamic_routing.analysis.statistics import RouteStatistics, gate_table, route_statistics
from dynamic_routing.divdr.loss import assign
from dynamic_routing.divdr.metrics import cluster_metrics
from dynamic_routing.evaluation.gates_file import GatesFile, ImageId, RouteClusters, save_gates
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import RoutingSpace

Cost = Callable[[Routes], dict[str, Tensor]]
"""Maps the routes of N images to named costs, each (N,)."""


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """What a process keeps of one image until all are gathered.

    Attributes:
        file_name: the image's file.
        image_id: as the data set gives it, None where it gives none.
        gates: (E,) float32, a copy of its own.
        image_size: height and width of the routed tensor.
        milliseconds: wall time, NaN if unknown.
        costs: what the evaluator's ``cost`` said.
    """

    file_name: str
    image_id: ImageId
    gates: np.ndarray
    image_size: tuple[int, int]
    milliseconds: float
    costs: dict[str, float]

    @property
    def key(self) -> tuple[str, str]:
        """Names an image and gives the order of the rows."""
        return self.file_name, repr(self.image_id)


class RoutingEvaluator(DatasetEvaluator):
    """Keeps every image's gates on disk and reports how diverse the routes were.

    Works with any model whose outputs carry ``"routes"`` (the DynamicRouting meta-architectures).
    The result does not depend on the number of processes: images are sorted, duplicates dropped.

    Args:
        dataset_name: names the file and the log lines.
        output_dir: where ``gates_<dataset_name>.npz`` goes
            (:mod:`~dynamic_routing.evaluation.gates_file`); None writes none.
        distributed: gather the images of all processes; otherwise each counts its own.
        cost: further numbers of a route, for example its GMACs. Called image by image, so that it
            sees each image's own size; kept in the file and summed up in the results.
        centres: (K, A) of a network with clusters; every image is assigned to the nearest one.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        distributed: bool = True,
        *,
        cost: Cost | None = None,
        centres: np.ndarray | None = None,
    ) -> None:
        self._logger = logging.getLogger("dynamic_routing.evaluation")
        self._dataset_name = dataset_name
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._distributed = distributed
        self._cost = cost
        self._centres = centres
        self.reset()

    @property
    def gates_path(self) -> Path | None:
        """The file that :meth:`evaluate` writes, if it writes one."""
        if self._output_dir is None:
            return None
        return self._output_dir / f"gates_{self._dataset_name.replace('/', '_')}.npz"

    def reset(self) -> None:
        """Forget all images."""
        self._records: list[ImageRecord] = []
        self._spaces: list[tuple[RoutingSpace, str]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the routes of a batch.

        Args:
            inputs: each with ``file_name`` and maybe ``image_id``.
            outputs: each with ``routes`` (one image's :class:`Routes`) and maybe ``milliseconds``.

        Raises:
            ValueError: an input without a file name, an output without the routes of one image.
        """
        for one_input, output in zip(inputs, outputs, strict=True):
            if "file_name" not in one_input:
                raise ValueError(f"an image needs a file_name, got keys {sorted(one_input)}")
            name = str(one_input["file_name"])
            routes = _routes_of(output, name)
            costs = self._cost(routes) if self._cost else {}
            self._remember_space(routes)
            record = ImageRecord(
                file_name=name,
                image_id=_plain_id(one_input.get("image_id")),
                gates=np.array(routes.gates[0], dtype=np.float32),
                image_size=routes.image_size,
                milliseconds=float(output.get("milliseconds", float("nan"))),
                costs={key: float(value) for key, value in costs.items()},
            )
            self._records.append(record)

    def _remember_space(self, routes: Routes) -> None:
        """Keep each different (space, rule) once; :func:`collect` refuses more than one."""
        if (routes.space, routes.rule) not in self._spaces:
            self._spaces.append((routes.space, routes.rule))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Write the gates, log the tables, sum up.

        Returns:
            ``{"routing": numbers}`` (:func:`summarise`) in the main process, None in the others.

        Raises:
            ValueError: no images, images routed in different spaces or by different rules, or
                gates that are not finite.
        """
        records, spaces = self._records, self._spaces
        if self._distributed:
            comm.synchronize()
            records = list(itertools.chain(*comm.gather(records)))
            spaces = list(itertools.chain(*comm.gather(spaces)))
            if not comm.is_main_process():
                return None
        gates = with_clusters(collect(records, spaces, self._dataset_name), self._centres)
        if self.gates_path is not None:
            save_gates(self.gates_path, gates)
            self._logger.info(f"gates of {len(gates)} images are in {self.gates_path}")
        statistics = route_statistics(gates.routes)
        results = summarise(statistics, gates)
        self._log(statistics, results)
        return {"routing": results}

    def _log(self, statistics: RouteStatistics, results: dict[str, float]) -> None:
        name = self._dataset_name
        self._logger.info(f"routes on {name}:\n{create_small_table(results)}")
        self._logger.info(
            f"gates on {name}, open rate and entropy in bits:\n{gate_table(statistics)}"
        )
        if statistics.collapsed:
            self._logger.warning(f"routes have collapsed: {statistics.collapse_reason}")
        elif statistics.same_pattern:
            self._logger.warning(f"routes share one pattern: {statistics.collapse_reason}")


def collect(
    records: Sequence[ImageRecord], spaces: Sequence[tuple[RoutingSpace, str]], dataset_name: str
) -> GatesFile:
    """All images in the order of their names, each once.

    Args:
        records: the images of all processes in any order.
        spaces: the (space, rule) pairs that occurred, duplicates allowed.
        dataset_name: for messages.

    Raises:
        ValueError: no images, or more than one space, rule or set of costs.
    """
    if not records:
        raise ValueError(f"data set {dataset_name}: no image was routed")
    distinct = {(space.edges, rule): (space, rule) for space, rule in spaces}
    if len(distinct) != 1:
        found = ", ".join(f"{len(space.edges)} edges ({rule})" for space, rule in distinct.values())
        raise ValueError(
            f"data set {dataset_name}: images were routed in different spaces: {found}"
        )
    space, rule = next(iter(distinct.values()))
    unique = {record.key: record for record in reversed(records)}  # the first one stays
    rows = [unique[key] for key in sorted(unique)]
    names = list(rows[0].costs)
    for row in rows:
        if sorted(row.costs) != sorted(names):
            raise ValueError(f"{row.file_name} has costs {list(row.costs)}, others have {names}")
    return GatesFile(
        space=space,
        gates=torch.from_numpy(np.stack([row.gates for row in rows])),
        rule=rule,
        file_names=tuple(row.file_name for row in rows),
        image_sizes=np.array([row.image_size for row in rows], dtype=np.int64),
        milliseconds=np.array([row.milliseconds for row in rows], dtype=np.float64),
        image_ids=tuple(row.image_id for row in rows),
        costs={name: np.array([row.costs[name] for row in rows]) for name in names},
    )


def with_clusters(gates: GatesFile, centres: np.ndarray | None) -> GatesFile:
    """The same images, each assigned to its nearest centre; unchanged without centres."""
    if centres is None:
        return gates
    found = assign(gates.routes.activations(), torch.from_numpy(centres))
    clusters = RouteClusters(found.clusters.numpy(), found.distances.numpy(), centres)
    return replace(gates, clusters=clusters)


def cluster_numbers(gates: GatesFile) -> dict[str, float]:
    """``divdr_*`` of :class:`~dynamic_routing.divdr.metrics.ClusterMetrics`, if any clusters."""
    if gates.clusters is None:
        return {}
    found = cluster_metrics(gates.routes.activations().numpy(), gates.clusters.centres)
    return {f"divdr_{name}": value for name, value in found.to_dict().items()}


def summarise(statistics: RouteStatistics, gates: GatesFile) -> dict[str, float]:
    """The evaluator's numbers, flat.

    Returns:
        images; distinct_routes; open_edges_avg, _max, _min and open_share, never_open and
        always_open, all over grid edges (see :class:`RouteStatistics`); entropy_mean in bits;
        collapsed (0 or 1); ms_avg over the images that were timed, if any; <cost>_avg, _max,
        _min of each cost; and, of a network with clusters, divdr_inter, _intra_pair,
        _intra_center, _silhouette and _share_<k> (:func:`cluster_numbers`).
    """
    results = {
        "images": float(statistics.images),
        "distinct_routes": float(statistics.distinct_routes),
        "open_edges_avg": statistics.open_edges_avg,
        "open_edges_max": float(statistics.open_edges_max),
        "open_edges_min": float(statistics.open_edges_min),
        "open_share": statistics.open_share,
        "never_open": float(len(statistics.never_open)),
        "always_open": float(len(statistics.always_open)),
        "entropy_mean": statistics.entropy_mean,
        "collapsed": float(statistics.collapsed),
    }
    timed = gates.milliseconds[~np.isnan(gates.milliseconds)]
    if timed.size:
        results["ms_avg"] = float(timed.mean())
    for name, values in gates.costs.items():
        results[f"{name}_avg"] = float(values.mean())
        results[f"{name}_max"] = float(values.max())
        results[f"{name}_min"] = float(values.min())
    return results | cluster_numbers(gates)


def _routes_of(output: dict[str, Any], file_name: str) -> Routes:
    """The routes in a model's output, or an error that says how to get some."""
    routes = output.get("routes")
    if not isinstance(routes, Routes):
        raise ValueError(
            f"the output of {file_name} has no 'routes' (keys: {sorted(output)}); use a "
            "meta-architecture that delivers them, for example MODEL.META_ARCHITECTURE: "
            "DynamicRoutingSemanticSegmentor"
        )
    if len(routes) != 1:
        raise ValueError(f"the output of {file_name} has routes of {len(routes)} images, not of 1")
    return routes.detach()


def _plain_id(image_id: object) -> ImageId:
    """An id as the gates file keeps it; numpy and torch scalars become Python numbers."""
    if isinstance(image_id, np.generic | Tensor):
        image_id = image_id.item()
    return image_id if image_id is None or isinstance(image_id, int) else str(image_id)
