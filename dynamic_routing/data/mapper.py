"""Reading images safely and label maps right, for training and for evaluation.

Detectron2's mapper reads labels as ``convert("L")``. For a palette PNG (VOC, and what many tools
save) that is the brightness of the colour: class 1, (128, 0, 0), becomes 38. Here the index itself
is read. A file that is broken, too large or of another size than announced is named.
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

from .images import check_declared_size, check_header, named_errors, read_image


def load_label_map(path: str, dtype: DTypeLike = np.uint8) -> np.ndarray:
    """Read a label image as class indices; fits SemSegEvaluator's ``sem_seg_loading_fn``.

    Args:
        path: a grey or palette image with one index a pixel.
        dtype: type of the result.

    Returns:
        (H, W) writable array.

    Raises:
        ValueError: for a colour image, a value that the type cannot hold, or a file that cannot be
            read, naming it.
    """
    check_header(str(path), deep=True)
    with named_errors(str(path)):
        return load_label_image(str(path), dtype)


class CheckedDatasetMapper(DatasetMapper):
    """Detectron2's mapper, which names files that cannot be used and reads label maps as indices.

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
            ValueError: in one line with the file's name, if image or label map cannot be read, are
                too large, differ in size from each other or from what the entry says, or if the
                label map is in colour.
        """
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"], self.image_format)
        check_declared_size(record, image)
        record.setdefault("height", image.shape[0])
        record.setdefault("width", image.shape[1])
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


class SemSegDatasetMapper(CheckedDatasetMapper):
    """The mapper of data sets with label maps alone; boxes and masks are kept if there are any."""
