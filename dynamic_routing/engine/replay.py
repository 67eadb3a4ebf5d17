"""Predictions along the images' own routes and along given ones, beside each other.

A run with a replay writes what :mod:`~dynamic_routing.engine.prediction_files` lists, from the own
routes; its pictures show both predictions, each above its route, and there are two files more:

======================  ===========================================================================
``replay.json``         for each image: executed cost and milliseconds of both, share that changed
``replay_gates.npz``    the routes that the images were run along, with their costs
======================  ===========================================================================
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dynamic_routing.analysis.strip import with_route
from dynamic_routing.engine.inputs import Frame
from dynamic_routing.engine.prediction_files import PredictionWriter, image_info, route_caption
from dynamic_routing.engine.prediction_run import Predict
from dynamic_routing.engine.predictor import Predictor
from dynamic_routing.evaluation.changes import changed_shares
from dynamic_routing.evaluation.gates_file import save_gates
from dynamic_routing.evaluation.predictions import Prediction, PredictionRecords
from dynamic_routing.evaluation.route_choice import RouteChoice
from dynamic_routing.evaluation.routing_evaluator import ImageRecord
from dynamic_routing.files import write_atomically
from dynamic_routing.modeling.cost import routed_network
from dynamic_routing.routing import fixed_routes
from dynamic_routing.routing.replay import check_routes_fit

REPLAYED = "replayed"
TITLE_LENGTH = 70
GAP = 12
"""Pixels between the two predictions."""


class ReplayPredictor:
    """A predictor whose outputs also hold the output along another route, as ``"replayed"``.

    Args:
        predictor: of a model with routes.
        choice: which route.

    Raises:
        ValueError: the route does not belong to the predictor's network.
    """

    def __init__(self, predictor: Predictor, choice: RouteChoice) -> None:
        network = routed_network(predictor.model.backbone)  # type: ignore[arg-type]
        choice.check(network.space)
        if choice.base is not None:
            check_routes_fit(network, choice.base)
        self.predictor = predictor
        self.choice = choice
        self._warm = False

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Predict twice; see :class:`Predictor`.

        Raises:
            ValueError: an edge cannot be opened in the route of one of the images.
        """
        if not self._warm and len(images):
            self.predictor(images[:1])  # the first forward is slower, whatever its route
            self._warm = True
        outputs = self.predictor(images)
        if not outputs:
            return []
        routes = self.choice.routes_for([output["routes"] for output in outputs])
        with fixed_routes(self.predictor, routes):
            replayed = self.predictor(images)
        for output, other in zip(outputs, replayed, strict=True):
            output[REPLAYED] = other
        return outputs


class ReplayWriter(PredictionWriter):
    """Writes what a :class:`ReplayPredictor` gives.

    Args:
        title: what the other route is.
        **options: see :class:`PredictionWriter`.
    """

    def __init__(self, folder: str | Path, *, title: str, **options: Any) -> None:
        super().__init__(folder, **options)
        self.title = title
        self.replays = PredictionRecords(self.classes, cost=options.get("cost"))
        self.comparisons: list[dict[str, Any]] = []
        self._replayed = Prediction()
        self._replayed_record: ImageRecord | None = None

    def write(self, frame: Frame, output: dict[str, Any]) -> None:
        """As :meth:`PredictionWriter.write`, for both predictions."""
        own, other = (Prediction.from_output(said) for said in (output, output[REPLAYED]))
        info = image_info(frame)
        self._replayed = other
        self._replayed_record = record = self.replays.route_record(info, other)
        own_record = self.write_prediction(frame, own)
        self.replays.add(info, other, record)
        assert own_record is not None and record is not None, "a replay without routes"
        self.comparisons.append(
            {
                "file_name": info.file_name,
                "own": _spent(own_record),
                REPLAYED: _spent(record),
                "changed": changed_shares(own, other),
            }
        )

    def picture(
        self, frame: Frame, prediction: Prediction, record: ImageRecord | None
    ) -> np.ndarray:
        """Both predictions side by side, each above its route."""
        pages = []
        shown = ("own route", prediction, record), (self.title, self._replayed,
                                                    self._replayed_record)  # fmt: skip
        for title, said, spent in shown:
            assert said.routes is not None and spent is not None, "a replay without routes"
            short = textwrap.shorten(title, TITLE_LENGTH, placeholder=" ...")
            caption = route_caption(spent, title=short[:1].upper() + short[1:])
            pages.append(
                with_route(self.prediction_picture(frame, said), said.routes, caption=caption)
            )
        return side_by_side(*pages)

    def summary(self) -> list[str]:
        """What was done, and what the other route changed."""
        if not self.comparisons:
            return super().summary()
        return [*super().summary(), f"{self.title}: {summarise_replay(self.comparisons)}"]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            content = {"route": self.title, "images": self.comparisons}
            text = json.dumps(content, indent=1)
            write_atomically(self.folder / "replay.json", text.encode("utf-8"))
            gates = self.replays.gates()
            if gates is not None:
                save_gates(self.folder / "replay_gates.npz", gates)


def with_replay(
    predictor: Predictor, choice: RouteChoice | None, folder: str | Path, **options: Any
) -> tuple[Predict, PredictionWriter]:
    """What predicts, and what writes it: with another route, if one is chosen.

    Args:
        predictor: of a model with routes, if there is a choice.
        choice: the other route, None for none.
        folder: where the files go.
        **options: see :class:`PredictionWriter`.

    Raises:
        ValueError: the route does not belong to the predictor's network.
    """
    if choice is None:
        return predictor, PredictionWriter(folder, **options)
    writer = ReplayWriter(folder, title=choice.title, **options)
    return ReplayPredictor(predictor, choice), writer


def _spent(record: ImageRecord) -> dict[str, float]:
    """Costs and milliseconds of one route."""
    return {**record.costs, "ms": record.milliseconds}


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two (H, W, 3) uint8 pictures with a gap between them, the lower one filled up with white."""
    height = max(len(left), len(right))
    left, right = (
        np.pad(page, ((0, height - len(page)), (0, 0), (0, 0)), constant_values=255)
        for page in (left, right)
    )
    return np.concatenate([left, np.full((height, GAP, 3), 255, np.uint8), right], axis=1)


def summarise_replay(comparisons: Sequence[dict[str, Any]]) -> str:
    """What the other route changed on average, in a line."""
    parts = []
    for key, unit in (("gmacs", "GMACs"), ("ms", "ms")):
        own, other = (np.mean([c[who][key] for c in comparisons if key in c[who]] or [np.nan])
                      for who in ("own", REPLAYED))  # fmt: skip
        parts.append(f"{own:.4g} -> {other:.4g} {unit}")
    kinds = dict.fromkeys(kind for c in comparisons for kind in c["changed"])
    for kind in kinds:
        share = np.mean([c["changed"][kind] for c in comparisons if kind in c["changed"]])
        parts.append(f"{share:.1%} of the {kind.replace('_', ' ')} changed")
    return ", ".join(parts)
