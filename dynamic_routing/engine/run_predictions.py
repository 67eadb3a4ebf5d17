"""Predictions of a finished run on single images, from its own config and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn

from dynamic_routing.analysis.report import MissingPartError, NotAvailable
from dynamic_routing.compat import load_label_image
from dynamic_routing.engine.checkpoint_history import checkpoint_of
from dynamic_routing.engine.loaders import build_mapper, prepare_datasets
from dynamic_routing.engine.pretrained import build_loaded
from dynamic_routing.evaluation.examples import class_palette
from dynamic_routing.evaluation.instance_tiles import SHOWN_SCORE, instance_tiles
from dynamic_routing.evaluation.report_pictures import ImageTiles, StoredImages
from dynamic_routing.evaluation.run_files import RunFiles
from dynamic_routing.modeling.config import resolve_device
from dynamic_routing.modeling.prepared import prepare_model

INSTANCE_SIDE = 480
"""Pixels of the longer side at which boxes are drawn, so that labels can be read beside others."""


class PredictedImages(StoredImages):
    """The images of a run with the predictions of its network.

    Args:
        cfg: the run's config.
        model: with its weights; taken as it is, so prepare it for speed.
        dataset: the registered data set of the images.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module, dataset: str) -> None:
        super().__init__("")
        self._model = model.eval()
        self._dataset = dataset
        self._mapper = build_mapper(cfg, dataset, train=False)
        self._records = {r["file_name"]: r for r in DatasetCatalog.get(dataset)}
        self._by_stem: dict[str, list[str]] = {}
        for name in self._records:
            self._by_stem.setdefault(Path(name).name, []).append(name)

    def _record(self, file_name: str) -> dict[str, Any] | None:
        """The image in the data set: by its path, else the only one of its name."""
        if file_name in self._records:
            return self._records[file_name]
        names = self._by_stem.get(Path(file_name).name, [])
        return self._records[names[0]] if len(names) == 1 else None

    def locate(self, file_name: str) -> Path:
        """Where the data set has it; data may have moved since the evaluation."""
        record = self._record(file_name)
        return Path(file_name) if record is None else Path(record["file_name"])

    def tiles(self, file_name: str) -> ImageTiles:
        """Image, prediction and, where there is one, truth.

        Raises:
            MissingPartError: the image is not there or cannot be predicted.
        """
        record = self._record(file_name)
        if record is None:
            raise MissingPartError(f"{file_name} is not in data set {self._dataset}")
        photo = self.photo(file_name)
        try:
            with torch.no_grad():
                output = self._model([self._mapper(record)])[0]
            return self._drawn(photo, record, output)
        except MissingPartError:
            raise
        except Exception as error:  # data that changed since lead to any part of Detectron2
            what = " ".join(str(error).split()) or type(error).__name__
            raise MissingPartError(f"no prediction of {file_name}: {what}") from error

    def _drawn(
        self, photo: np.ndarray, record: dict[str, Any], output: dict[str, Any]
    ) -> ImageTiles:
        """The image beside what the network says of it, and the truth."""
        if "instances" in output:
            found = output["instances"]
            drawn = instance_tiles(photo, record, found, self._dataset, side=INSTANCE_SIDE)
            count = int((found.scores >= SHOWN_SCORE).sum())
            said = f"prediction, objects with a score of at least {SHOWN_SCORE:g}: {count}"
            tiles = {"image": photo, said: drawn["prediction"], "truth": drawn["truth"]}
            return ImageTiles(tiles, routes=output.get("routes"))
        if "sem_seg" not in output:
            raise MissingPartError("predictions of this kind of network are not drawn")
        labels = {"prediction": output["sem_seg"].argmax(dim=0).cpu().numpy()}
        if "sem_seg_file_name" in record:
            labels["truth"] = load_label_image(record["sem_seg_file_name"])
        palette = class_palette(self._dataset)
        return ImageTiles(
            {"image": photo, **{name: palette.paint(found) for name, found in labels.items()}},
            flat=frozenset(labels),
            legend=palette.entries(list(labels.values())),
            routes=output.get("routes"),
        )


def run_images(run: RunFiles) -> StoredImages:
    """A run's images with predictions, or without and why.

    The config is read without tags, weights are tensors only; both may be a stranger's.
    """
    if isinstance(run.settings, NotAvailable):
        return StoredImages(run.settings.reason)
    try:
        cfg = _single(run.settings, run.dataset)
        prepare_datasets(cfg)
        model = build_loaded(cfg, checkpoint_of(run.folder))
        return PredictedImages(cfg, prepare_model(model), run.dataset)
    except Exception as error:  # whatever parts of Detectron2 a stranger's config leads to
        return StoredImages(" ".join(str(error).split()) or type(error).__name__)


def _single(cfg: CfgNode, dataset: str) -> CfgNode:
    """The config for this data set on this machine."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), (dataset,)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "auto"
    resolve_device(cfg)
    return cfg
