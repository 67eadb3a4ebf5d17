"""The files of a prediction run: pictures, videos, label maps, JSON and gates.

In the output folder, for every input ``<name>``:

======================  ===========================================================================
``<name>_prediction``   ``.jpg`` or ``.png``, the picture; of a video ``.mp4`` (or ``.avi``)
``<name>_sem_seg``      ``.png``, one class index a pixel; of a video one a frame
``<name>_panoptic``     ``.png``, segment ids as COCO writes them; of a video one a frame
``<name>_routes``       ``.png``, of a video: how its routes change
======================  ===========================================================================

and ``predictions.json``, ``images.json``, ``panoptic.json`` and ``gates.npz`` for all of them
(:mod:`~dynamic_routing.evaluation.predictions`). Every file is written in one step.
"""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image

from dynamic_routing.analysis.panel import encode_png
from dynamic_routing.analysis.strip import route_strip, with_route
from dynamic_routing.engine.inputs import RESULT_FILES, Frame, Source, video_info
from dynamic_routing.engine.video_file import VideoFile
from dynamic_routing.evaluation.class_names import PredictedClasses
from dynamic_routing.evaluation.gates_file import save_gates
from dynamic_routing.evaluation.prediction_pictures import draw_prediction
from dynamic_routing.evaluation.predictions import (
    PANOPTIC_SUFFIX,
    ImageInfo,
    Prediction,
    PredictionRecords,
    encode_labels,
    encode_segments,
)
from dynamic_routing.evaluation.routing_evaluator import Cost, ImageRecord
from dynamic_routing.files import write_atomically
from dynamic_routing.routing.space import RoutingSpace

JPEG_SUFFIXES = (".jpg", ".jpeg")
JPEG_QUALITY = 92
STRIP_DPI = 120


@dataclass(eq=False)
class _Video:
    """The video whose frames are being written."""

    source: Source
    file: VideoFile
    space: RoutingSpace | None = None
    records: list[ImageRecord] = field(default_factory=list)


class PredictionWriter:
    """Writes the results of image after image; a context manager.

    However its ``with`` ends, also by Ctrl-C, the JSON and gates files of what was done so far are
    written and the present video is completed.

    Args:
        folder: where everything goes; made if missing.
        classes: of the model.
        cost: what a route costs, "gmacs" among it.
        pictures: draw pictures and videos.
        show_routes: put the route below each picture.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        classes: PredictedClasses,
        cost: Cost | None = None,
        pictures: bool = True,
        show_routes: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.classes = classes
        self.records = PredictionRecords(classes, cost=cost)
        self.pictures = pictures
        self.show_routes = show_routes
        self._video: _Video | None = None

    def __enter__(self) -> PredictionWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._finish_video()
        finally:
            self._write_records()

    def write(self, frame: Frame, output: dict[str, Any]) -> None:
        """Write what belongs to one frame; the frames of a video come one after the other.

        Args:
            frame: the image.
            output: of the model for it.

        Raises:
            OSError: a file cannot be written.
        """
        self.write_prediction(frame, Prediction.from_output(output))

    def write_prediction(self, frame: Frame, prediction: Prediction) -> ImageRecord | None:
        """Write what was predicted on one frame; what was kept of its route."""
        info = image_info(frame)
        record = self.records.route_record(info, prediction)
        self._follow(frame, prediction, record)
        if prediction.labels is not None:
            path = self.folder / f"{frame.name}_sem_seg.png"
            write_atomically(path, encode_labels(prediction.labels))
        if prediction.panoptic is not None:
            path = self.folder / f"{frame.name}{PANOPTIC_SUFFIX}"
            write_atomically(path, encode_segments(prediction.panoptic.segments))
        if self.pictures:
            self._draw(frame, prediction, record)
        self.records.add(info, prediction, record)
        return record

    def prediction_picture(self, frame: Frame, prediction: Prediction) -> np.ndarray:
        """A prediction over its frame, (H, W, 3) uint8 RGB."""
        return draw_prediction(
            np.ascontiguousarray(frame.image[:, :, ::-1]),
            prediction,
            classes=self.classes,
            colour_by_class=self._video is not None,
        )

    def picture(
        self, frame: Frame, prediction: Prediction, record: ImageRecord | None
    ) -> np.ndarray:
        """What is shown of a frame, (H, W, 3) uint8 RGB."""
        picture = self.prediction_picture(frame, prediction)
        if not self.show_routes or prediction.routes is None or record is None:
            return picture
        return with_route(picture, prediction.routes, caption=route_caption(record))

    def summary(self) -> list[str]:
        """What was done, in lines for the user."""
        return [self.records.summary()]

    def _draw(self, frame: Frame, prediction: Prediction, record: ImageRecord | None) -> None:
        """The picture of an image, or the next one of the video."""
        picture = self.picture(frame, prediction, record)
        if self._video is not None:
            self._video.file.write(picture)
            return
        suffix = ".jpg" if frame.source.path.suffix.lower() in JPEG_SUFFIXES else ".png"
        path = self.folder / f"{frame.name}_prediction{suffix}"
        write_atomically(path, encode_picture(picture, suffix))

    def _follow(self, frame: Frame, prediction: Prediction, record: ImageRecord | None) -> None:
        """Start or end a video where the source changes; remember the frame's route."""
        if self._video is not None and self._video.source != frame.source:
            self._finish_video()
        if not frame.source.is_video:
            return
        if self._video is None:
            stem = self.folder / f"{frame.source.name}_prediction"
            file = VideoFile(stem, fps=video_info(frame.source.path).fps)
            self._video = _Video(frame.source, file)
        if record is not None and prediction.routes is not None:
            self._video.space = prediction.routes.space
            self._video.records.append(record)

    def _finish_video(self) -> None:
        """Complete the present video and draw how its routes changed."""
        video, self._video = self._video, None
        if video is None:
            return
        video.file.close()
        records = [record for record in video.records if "gmacs" in record.costs]
        if self.pictures and video.space is not None and records:
            gates = torch.from_numpy(np.stack([record.gates for record in records]))
            gmacs = np.array([record.costs["gmacs"] for record in records])
            content = encode_png(route_strip(video.space, gates, gmacs), dpi=STRIP_DPI)
            write_atomically(self.folder / f"{video.source.name}_routes.png", content)

    def _write_records(self) -> None:
        """The files that hold all images."""
        records = self.records
        files: dict[str, Any] = dict(zip(RESULT_FILES, (records.results, records.images_file())))
        if records.panoptic:
            files["panoptic.json"] = records.panoptic_file()
        for name, content in files.items():
            write_atomically(self.folder / name, json.dumps(content).encode("utf-8"))
        gates = records.gates()
        if gates is not None:
            save_gates(self.folder / "gates.npz", gates)


def check_writable(folder: str | Path) -> None:
    """Make a folder and try it.

    Raises:
        OSError: it cannot be made or written.
        ValueError: there is a file of that name.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"--output {folder} is a file; give a folder")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def image_info(frame: Frame) -> ImageInfo:
    """How a frame is called in the files."""
    height, width = frame.image.shape[:2]
    if frame.number is None:
        return ImageInfo(frame.name, str(frame.source.path), height, width)
    video = str(frame.source.path)
    return ImageInfo(frame.name, frame.name, height, width, video=video, frame=frame.number)


def route_caption(record: ImageRecord, *, title: str = "Route") -> str:
    """What a route cost, in a line."""
    gmacs = record.costs.get("gmacs")
    parts = [] if gmacs is None else [f"executed {gmacs:.4g} GMACs"]
    return f"{title}: " + ", ".join([*parts, f"{record.milliseconds:.1f} ms"])


def encode_picture(picture: np.ndarray, suffix: str) -> bytes:
    """(H, W, 3) uint8 RGB as the bytes of a .jpg or .png file."""
    content = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if suffix == ".jpg" else {}
    kind = "JPEG" if suffix == ".jpg" else "PNG"
    Image.fromarray(picture).save(content, format=kind, **options)
    return content.getvalue()
