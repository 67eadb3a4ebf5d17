"""Reading label maps right, for training and for evaluation.

Detectron2's mapper reads labels as ``convert("L")``. For a palette PNG (VOC, and what many tools
save) that is the brightness of the colour: class 1, (128, 0, 0), becomes 38. Here the index itself
is read.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper, detection_utils
from detectron2.data import transforms as T
from numpy.typing import DTypeLike

from dynamic_routing.compat import load_label_image


def load_label_map(path: str, dtype: DTypeLike = np.uint8) -> np.ndarray:
    """Read a label image as class indices; fits SemSegEvaluator's ``sem_seg_loading_fn``.

    Args:
        path: a grey or palette image with one index a pixel.
        dtype: type of the result.

    Returns:
        (H, W) writable array.

    Raises:
        ValueError: for a colour image, or a value that the type cannot hold, naming the file.
    """
    return load_label_image(str(path), dtype)


class SemSegDatasetMapper(DatasetMapper):
    """Detectron2's mapper with label maps read by `load_label_map`; boxes and masks are kept.

    Every image gives a dictionary, never None, whatever is left after cropping. It holds image (C,
    H, W) uint8 and, where the data set has them, sem_seg (H, W) int64 and (training) instances.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Read and augment one image.

        Args:
            dataset_dict: one image in Detectron2's data set format; not changed.

        Returns:
            What the built-in models accept.

        Raises:
            ValueError: if image and label map differ in size, or for a colour label image.
        """
        record = copy.deepcopy(dataset_dict)
        image = detection_utils.read_image(record["file_name"], format=self.image_format)
        detection_utils.check_image_size(record, image)
        labels = self._read_labels(record, image)
        aug_input = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(aug_input)
        image, labels = aug_input.image, aug_input.sem_seg
        record["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if labels is not None:
            record["sem_seg"] = torch.as_tensor(labels.astype("long"))
        if self.proposal_topk is not None:
            detection_utils.transform_proposals(
                record, image.shape[:2], transforms, proposal_topk=self.proposal_topk
            )
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, image.shape[:2])
        return record

    @staticmethod
    def _read_labels(record: dict[str, Any], image: np.ndarray) -> np.ndarray | None:
        """Take the label map's name out of a record and read it: (H, W) uint8, or None."""
        path = record.pop("sem_seg_file_name", None)
        if path is None:
            return None
        labels = load_label_map(path)
        if labels.shape != image.shape[:2]:
            raise ValueError(
                f"label map {path} is {labels.shape}, but image {record['file_name']} is "
                f"{image.shape[:2]} (height, width)"
            )
        return labels
