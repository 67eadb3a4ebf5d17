"""TensorBoard's view of the routes of a training, switched on by Detectron2's ``VIS_PERIOD``.

Every VIS_PERIOD iterations, in the main process:

- ``gates/scale_1_<stride>``: histogram of the gates at each scale, over the latest training images;
- ``routes/edge_frequency``: share of the period's training images that open each edge;
- ``routes/validation_<i>``: the routes of two validation images, the same ones every time.

At the end ``projector`` receives A-space (:mod:`~dynamic_routing.engine.projector`). Losses, random
numbers and running statistics are those of a training without it. With several processes the
training images are the main process's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from dynamic_routing.analysis.strip import grid_picture, with_route
from dynamic_routing.divdr.sources import choose_subset
from dynamic_routing.engine.activation_passes import backbone_routes, evaluation_mode
from dynamic_routing.engine.loaders import build_mapper
from dynamic_routing.engine.projector import write_embedding
from dynamic_routing.evaluation.prediction_pictures import display_size
from dynamic_routing.modeling.cost import model_cost, routed_network
from dynamic_routing.modeling.meta_arch import RoutingMixin
from dynamic_routing.randomness import kept_random_state
from dynamic_routing.routing import RoutedModule, Routes, RoutingOutput, RoutingSpace
from dynamic_routing.routing.cost import GIGA

logger = logging.getLogger(__name__)

FIXED_IMAGES = 2
RECENT_BATCHES = 64
"""Training batches whose gates a histogram shows at most."""

HISTOGRAM_BINS = 50

Inputs = list[dict[str, Any]]


class TrainingRoutes:
    """The gates of the training images since the last picture; a forward hook of the network."""

    def __init__(self, space: RoutingSpace) -> None:
        self._space = space
        self.reset()

    def reset(self) -> None:
        """Begin a period."""
        self.images = 0
        self._opened: Tensor | None = None
        self._recent: deque[Tensor] = deque(maxlen=RECENT_BATCHES)

    def __call__(self, module: nn.Module, _inputs: object, output: RoutingOutput) -> None:
        """Note a batch, if it is one that trains."""
        if not module.training or not torch.is_grad_enabled():
            return
        gates = output.routes.gates.detach()
        opened = (gates > 0).sum(dim=0)
        self._opened = opened if self._opened is None else self._opened + opened
        self._recent.append(gates)
        self.images += len(gates)

    @property
    def frequency(self) -> Tensor:
        """(E,) share of the images that open each edge, on the CPU."""
        assert self._opened is not None, "no training image yet"
        return self._opened.double().cpu() / self.images

    def by_scale(self) -> dict[int, Tensor]:
        """Stride -> every gate of the latest images at that scale, in one row, on the CPU."""
        gates = torch.cat(list(self._recent)).float().cpu()
        found: dict[int, list[int]] = {}
        for column, edge in enumerate(self._space.edges):
            found.setdefault(edge.source.stride, []).append(column)
        return {stride: gates[:, columns].flatten() for stride, columns in sorted(found.items())}


class RoutePictures(HookBase):
    """Hands pictures and histograms to the event storage.

    Args:
        model: a meta-architecture with routes, without DistributedDataParallel around it.
        period: iterations between two of them.
        load_inputs: makes the fixed images' inputs, as the model takes them in evaluation.
        image_format: of these inputs, such as "RGB".
        finish: called behind the last evaluation.
    """

    def __init__(
        self,
        model: RoutingMixin,
        *,
        period: int,
        load_inputs: Callable[[], Inputs] = list,
        image_format: str = "RGB",
        finish: Callable[[], None] | None = None,
    ) -> None:
        self._model = model
        self._period = period
        self._load_inputs = load_inputs
        self._format = image_format
        self._finish = finish
        self._inputs: Inputs = []
        self._network: RoutedModule = routed_network(model.backbone)
        self._cost = model_cost(model, convention="macs")
        self.routes = TrainingRoutes(self._network.space)
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def before_train(self) -> None:
        """Listen to the network and read the fixed images."""
        self._handle = self._network.register_forward_hook(self.routes)
        with kept_random_state():
            self._inputs = self._load_inputs()

    def after_step(self) -> None:
        """Draw where it is time, and at the end."""
        done = self.trainer.iter + 1
        if done % self._period == 0 or done >= self.trainer.max_iter:
            with kept_random_state():
                self._draw(self.trainer.storage, done)

    def after_train(self) -> None:
        """Listen no longer; show A-space if the training is complete."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if self._finish is not None and self.trainer.iter + 1 >= self.trainer.max_iter:
            with kept_random_state():
                self._finish()

    def _draw(self, storage: EventStorage, done: int) -> None:
        """Histograms, edge frequency and the fixed images' routes."""
        space = self._network.space
        if self.routes.images:
            for stride, gates in self.routes.by_scale().items():
                storage.put_histogram(f"gates/scale_1_{stride}", gates, bins=HISTOGRAM_BINS)
            picture = grid_picture(
                space,
                self.routes.frequency,
                caption=f"Iteration {done}: edges open on {self.routes.images} training images",
                label="share of images",
            )
            storage.put_image("routes/edge_frequency", _channels_first(picture))
        self.routes.reset()
        with evaluation_mode(self._model):
            for number, inputs in enumerate(self._inputs):
                routes = backbone_routes(self._model, [inputs]).detach()
                picture = self._page(inputs, routes, done)
                storage.put_image(f"routes/validation_{number}", _channels_first(picture))

    def _page(self, inputs: dict[str, Any], routes: Routes, done: int) -> np.ndarray:
        """A fixed image above its present route."""
        gmacs = float(self._cost.executed(routes)) / GIGA
        name = Path(str(inputs.get("file_name", ""))).name
        rgb = convert_image_to_rgb(inputs["image"].permute(1, 2, 0), self._format)
        height, width = display_size(*rgb.shape[:2])
        image = cv2.resize(np.asarray(rgb).astype(np.uint8), (width, height))
        caption = f"Iteration {done}: {name}, executed {gmacs:.4g} GMACs"
        return with_route(image, routes, caption=caption)


def _channels_first(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) as (3, H, W), as Detectron2's storage takes pictures."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def load_fixed_inputs(cfg: CfgNode, *, count: int = FIXED_IMAGES) -> Inputs:
    """Some images of the first test set, chosen by SEED, as the model sees them in evaluation."""
    names: Sequence[str] = cfg.DATASETS.TEST
    if not names:
        return []
    records = get_detection_dataset_dicts(names[0], filter_empty=False)
    mapper = build_mapper(cfg, names[0], train=False)
    return [mapper(records[i]) for i in choose_subset(len(records), count, seed=max(cfg.SEED, 0))]


def build_route_pictures(cfg: CfgNode, model: nn.Module) -> RoutePictures | None:
    """The hook that VIS_PERIOD asks for: in the main process, for a model with routes.

    Args:
        cfg: the config.
        model: the meta-architecture, without DistributedDataParallel around it.
    """
    if cfg.VIS_PERIOD <= 0 or not comm.is_main_process() or not isinstance(model, RoutingMixin):
        return None
    folder = Path(cfg.OUTPUT_DIR)

    def finish() -> None:
        """Show A-space of the last evaluation."""
        names = [name.replace("/", "_") for name in cfg.DATASETS.TEST]
        files = {name: folder / "inference" / f"gates_{name}.npz" for name in names}
        present = {name: path for name, path in files.items() if path.is_file()}
        if present:
            write_embedding(folder / "projector", present, seed=max(cfg.SEED, 0))
        else:
            logger.info("no gates file of an evaluation: TensorBoard gets no embedding")

    return RoutePictures(
        model,
        period=cfg.VIS_PERIOD,
        load_inputs=lambda: load_fixed_inputs(cfg),
        image_format=cfg.INPUT.FORMAT,
        finish=finish,
    )
