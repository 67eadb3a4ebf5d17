"""What turns entries of detection data sets into input of R-CNN, RetinaNet and Panoptic FPN."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from .augmentation import keep_a_pixel
from .images import ImageError
from .mapper import CheckedDatasetMapper


class DetectionDatasetMapper(CheckedDatasetMapper):
    """Detectron2's mapper for boxes, masks and keypoints, with errors that name the image.

    An image on which nothing may be trained (none or only crowds) gives empty instances, also with
    masks and cropping, where Detectron2 stops.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read what Detectron2's mapper reads.

        In evaluation no keypoint is flipped, so that DATASETS.TRAIN, from which Detectron2 takes
        the pairs, may be empty.
        """
        if not is_train and cfg.MODEL.KEYPOINT_ON:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.KEYPOINT_ON = False
        arguments = super().from_config(cfg, is_train)
        return {**arguments, "augmentations": keep_a_pixel(arguments["augmentations"])}

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: Any
    ) -> None:
        """Turn a record's annotations into its instances, both in the dictionary.

        Raises:
            ImageError: they do not fit each other or the image.
        """
        if all(item.get("iscrowd", 0) for item in dataset_dict["annotations"]):
            del dataset_dict["annotations"]
            dataset_dict["instances"] = detection_utils.annotations_to_instances([], image_shape)
            return
        try:
            super()._transform_annotations(dataset_dict, transforms, image_shape)
        except (ValueError, AssertionError, KeyError) as error:
            cause = error.__cause__ or error
            reason = " ".join(str(cause).split()) or type(cause).__name__
            raise ImageError(
                f"annotations of image {dataset_dict['file_name']} cannot be used: {reason}"
            ) from error
