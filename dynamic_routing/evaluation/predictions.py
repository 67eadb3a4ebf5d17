"""Predictions without ground truth, and the formats in which they are kept.

``predictions.json`` is a list in COCO's results format; ``images.json`` says which image has which
id and which class which category id, in the form of a COCO data set without annotations;
``panoptic.json`` and its PNGs are COCO's panoptic format; ``gates.npz`` is a
:mod:`~dynamic_routing.evaluation.gates_file`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

from dynamic_routing.evaluation.class_names import PredictedClasses
from dynamic_routing.evaluation.gates_file import GatesFile
from dynamic_routing.evaluation.routing_evaluator import Cost, ImageRecord, collect
from dynamic_routing.routing.routes import Routes
from dynamic_routing.routing.space import RoutingSpace

PANOPTIC_SUFFIX = "_panoptic.png"


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """A panoptic segmentation.

    Attributes:
        segments: (H, W) int32, a segment's id a pixel, 0 where there is none.
        infos: id, category_id (a class index), isthing and maybe score of each segment.
    """

    segments: np.ndarray
    infos: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model said of one image, on the CPU; None for what it does not predict.

    Attributes:
        labels: (H, W) int64 class indices.
        instances: with boxes, scores and classes, maybe masks and keypoints.
        panoptic: see :class:`PanopticMap`.
        routes: of this image (N = 1).
        milliseconds: wall time, NaN if unknown.
    """

    labels: np.ndarray | None = None
    instances: Instances | None = None
    panoptic: PanopticMap | None = None
    routes: Routes | None = None
    milliseconds: float = float("nan")

    @classmethod
    def from_output(cls, output: dict[str, Any]) -> Prediction:
        """From what a Detectron2 model returns for one image."""
        labels = panoptic = None
        if "sem_seg" in output:
            labels = output["sem_seg"].argmax(dim=0).cpu().numpy()
        if "panoptic_seg" in output:
            segments, infos = output["panoptic_seg"]
            panoptic = PanopticMap(segments.cpu().numpy(), infos)
        instances, routes = output.get("instances"), output.get("routes")
        return cls(
            labels=labels,
            instances=None if instances is None else instances.to("cpu"),
            panoptic=panoptic,
            routes=None if routes is None else routes.detach(),
            milliseconds=float(output.get("milliseconds", float("nan"))),
        )


@dataclass(frozen=True)
class ImageInfo:
    """Which image a prediction is of.

    Attributes:
        name: stem of the files about it.
        file_name: the image's file; of a video frame its name.
        height: in pixels.
        width: in pixels.
        video: the file that the frame is from, "" for an image.
        frame: number of the frame in the video, None for an image.
    """

    name: str
    file_name: str
    height: int
    width: int
    video: str = ""
    frame: int | None = None


class PredictionRecords:
    """Everything that the JSON and gates files of a run hold, image by image.

    Args:
        classes: of the model.
        cost: what a route costs, for the gates file; no costs without.
    """

    def __init__(self, classes: PredictedClasses, *, cost: Cost | None = None) -> None:
        self.classes = classes
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.panoptic: list[dict[str, Any]] = []
        self.routes: list[ImageRecord] = []
        self._cost = cost
        self._spaces: list[tuple[RoutingSpace, str]] = []

    def route_record(self, info: ImageInfo, prediction: Prediction) -> ImageRecord | None:
        """What :meth:`add` will keep of the image's route; None if the model does not route."""
        routes = prediction.routes
        if routes is None:
            return None
        costs = self._cost(routes) if self._cost else {}
        return ImageRecord(
            file_name=info.file_name,
            image_id=len(self.images) + 1,
            gates=np.array(routes.gates[0], dtype=np.float32),
            image_size=routes.image_size,
            milliseconds=prediction.milliseconds,
            costs={name: float(value) for name, value in costs.items()},
        )

    def add(self, info: ImageInfo, prediction: Prediction, record: ImageRecord | None) -> None:
        """Keep one image; its id is its position, from 1.

        Args:
            info: which image.
            prediction: what the model said.
            record: of :meth:`route_record`.
        """
        image_id = len(self.images) + 1
        if prediction.instances is not None:
            self.results += coco_results(prediction.instances, image_id, info, self.classes)
        if prediction.panoptic is not None:
            self.panoptic.append(panoptic_entry(prediction.panoptic, image_id, info, self.classes))
        if record is not None and prediction.routes is not None:
            self.routes.append(record)
            pair = (prediction.routes.space, prediction.routes.rule)
            if pair not in self._spaces:
                self._spaces.append(pair)
        self.images.append(image_entry(image_id, info))

    def images_file(self) -> dict[str, Any]:
        """The content of ``images.json``."""
        return {"images": self.images, **_category_lists(self.classes)}

    def panoptic_file(self) -> dict[str, Any]:
        """The content of ``panoptic.json``, COCO's panoptic format."""
        things, stuff = self.classes.things, self.classes.stuff
        categories = [{**c, "isthing": 1} for c in things.categories(self.classes.num_things)]
        # Index 0 of the label map stands for all things.
        others = stuff.categories(self.classes.num_stuff)[1:]
        categories += [{**c, "isthing": 0} for c in others]
        return {
            "images": self.images,
            "annotations": self.panoptic,
            "categories": categories,
        }

    def gates(self) -> GatesFile | None:
        """All routes, sorted by file name; None without any."""
        return collect(self.routes, self._spaces, "of the inputs") if self.routes else None

    def summary(self) -> str:
        """How many images were done, and what they took on average."""
        count = len(self.images)
        parts = [f"{count} image{'' if count == 1 else 's'}"]
        milliseconds = [r.milliseconds for r in self.routes if np.isfinite(r.milliseconds)]
        gmacs = [r.costs["gmacs"] for r in self.routes if "gmacs" in r.costs]
        if milliseconds:
            parts.append(f"{np.mean(milliseconds):.1f} ms an image on average")
        if gmacs:
            spread = f"{min(gmacs):.4g} to {max(gmacs):.4g}"
            parts.append(f"{np.mean(gmacs):.4g} GMACs executed on average ({spread})")
        return ", ".join(parts)


def image_entry(image_id: int, info: ImageInfo) -> dict[str, Any]:
    """One image as COCO lists it, with its name here."""
    entry: dict[str, Any] = {
        "id": image_id,
        "file_name": info.file_name,
        "height": info.height,
        "width": info.width,
        "name": info.name,
    }
    if info.frame is not None:
        entry.update(video=info.video, frame=info.frame)
    return entry


def _category_lists(classes: PredictedClasses) -> dict[str, Any]:
    """The classes of instances and of label maps, and what their ids are."""
    known = bool(classes.things.dataset_ids)
    meaning = f"those of {classes.dataset_name}" if known else "class indices from 0"
    labels = [{"id": i, "name": classes.stuff.name(i)} for i in range(classes.num_stuff)]
    return {
        "categories": classes.things.categories(classes.num_things),
        "category_ids": meaning,
        "labels": labels,
    }


def coco_results(
    instances: Instances, image_id: int, info: ImageInfo, classes: PredictedClasses
) -> list[dict[str, Any]]:
    """Instances in COCO's results format, with the file name and the data set's category ids."""
    if instances.has("pred_keypoints"):  # Detectron2 shifts them in place
        fields = {**instances.get_fields(), "pred_keypoints": instances.pred_keypoints.clone()}
        instances = Instances(instances.image_size, **fields)
    results = instances_to_coco_json(instances, image_id)
    for result in results:
        result["category_id"] = classes.things.category_id(result["category_id"])
        result["file_name"] = info.file_name
    return results


def panoptic_entry(
    panoptic: PanopticMap, image_id: int, info: ImageInfo, classes: PredictedClasses
) -> dict[str, Any]:
    """One image of ``panoptic.json``, with areas and the data set's category ids."""
    ids, counts = np.unique(panoptic.segments, return_counts=True)
    areas = dict(zip(ids.tolist(), counts.tolist()))
    segments = []
    for segment in panoptic.infos:
        kind = classes.things if segment["isthing"] else classes.stuff
        category_id = kind.category_id(segment["category_id"])
        area = areas.get(segment["id"], 0)
        segments.append({**segment, "category_id": category_id, "area": area})
    return {
        "image_id": image_id,
        "file_name": f"{info.name}{PANOPTIC_SUFFIX}",
        "segments_info": segments,
    }


def encode_labels(labels: np.ndarray) -> bytes:
    """A label map as a grey PNG, 8 bits or, above class 255, 16."""
    dtype = np.uint8 if labels.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16
    return encode_png(labels.astype(dtype))


def encode_segments(segments: np.ndarray) -> bytes:
    """Segment ids as COCO's panoptic PNG: red + 256 green + 65536 blue."""
    channels = [segments >> shift & 255 for shift in (0, 8, 16)]
    return encode_png(np.stack(channels, axis=-1).astype(np.uint8))


def encode_png(pixels: np.ndarray) -> bytes:
    """An array as PNG bytes."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()
