"""A Detectron2 model with routes as a function from an image tensor to tensors, for export."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dynamic_routing.modeling.cost import routed_network
from dynamic_routing.modeling.features import feature_name
from dynamic_routing.modeling.image_classifier import PlainImageClassifier
from dynamic_routing.modeling.sem_seg_head import DynamicRoutingSemSegHead
from dynamic_routing.routing import SegmentationDecoder
from dynamic_routing.routing.exportable import exportable


class ExportError(ValueError):
    """A model that cannot be exported as asked; its message is one line."""


class ExportForm(nn.Module):
    """A Detectron2 model as one that maps an image tensor to tensors.

    Images are (N, C, H, W), 0..255 in the model's own order of channels; H and W are multiples of
    the coarsest stride. Outputs by name (see ``names``): "scores" (N, K, H, W) of a segmentor or
    (N, K) of a classifier, the feature maps "p2", "p3", ... of a backbone with any other head, and
    always "gates" (N, E).

    Args:
        model: a routed model in evaluation mode.
        form: "static", "masked" or "branches".

    Raises:
        ExportError: the form does not fit the model.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, model: nn.Module, form: str) -> None:
        super().__init__()
        try:
            network = routed_network(model.backbone)  # type: ignore[arg-type]
            self.routing = exportable(network, form)
        except ValueError as error:
            raise ExportError(str(error)) from None
        self.stride = network.space.stride
        self.channels = network.image_channels
        self.scales = [feature_name(s) for s in network.space.scales]
        self.head, self.names = self._head(model)
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, getattr(model, name).detach().clone())

    def _head(self, model: nn.Module) -> tuple[nn.Module | None, list[str]]:
        """What stands on the features, and the names of the outputs."""
        head = getattr(model, "sem_seg_head", None)
        if isinstance(head, DynamicRoutingSemSegHead) and len(head.in_features) == len(self.scales):
            return head.decoder, ["scores", "gates"]
        if isinstance(model, PlainImageClassifier):
            return model.classifier, ["scores", "gates"]
        return None, [*self.scales, "gates"]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of ``names``."""
        features, reached, gates = self.routing((images - self.pixel_mean) / self.pixel_std)
        return (*self.outputs(features, reached), gates)

    def outputs(self, features: Sequence[Tensor], reached: Sequence[Tensor]) -> list[Tensor]:
        """The head's scores, or the features, from those of every scale, fine to coarse."""
        if self.head is None:
            return list(features)
        if isinstance(self.head, SegmentationDecoder):
            return [self.head(dict(enumerate(features)), dict(enumerate(reached)))]
        return [self.head(dict(zip(self.scales, features)))]
