"""Detectron2 models made fast for evaluation: prepared parts in place of the trainable ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from detectron2.layers import Conv2d
from torch import Tensor, nn

from dynamic_routing.modeling.features import FeatureMaps
from dynamic_routing.modeling.neck import ProjectionNeck
from dynamic_routing.routing import RoutingNetwork, SegmentationDecoder
from dynamic_routing.routing.execution import prepare_for_inference
from dynamic_routing.routing.folding import FoldedConv, folded_weights, is_foldable
from dynamic_routing.routing.prepared_decoder import PreparedDecoder


def prepare_model(model: nn.Module, *, graphs: bool = False) -> nn.Module:
    """A copy of a Detectron2 model that evaluates fast; the model itself is left as it is.

    Routing networks, segmentation decoders and projections to one width are replaced by prepared
    ones; everything else is copied. The copy does not follow later training: prepare anew.

    Args:
        model: any model, not wrapped. One without a routing network is returned as it is.
        graphs: whether single images run from CUDA graphs where the model is on a GPU.
    """
    if not any(isinstance(m, RoutingNetwork) for m in model.modules()):
        return model
    graphs = graphs and is_on_gpu(model)
    replaced = {id(m): _prepared(m, graphs=graphs) for m in model.modules()}
    memo = {key: part for key, part in replaced.items() if part is not None}
    return copy.deepcopy(model, memo).eval()


def is_on_gpu(model: nn.Module) -> bool:
    """Whether the model's weights are on a CUDA device."""
    return next(model.parameters()).is_cuda


def _prepared(module: nn.Module, *, graphs: bool) -> nn.Module | None:
    """The prepared form of a module, if it has one."""
    if isinstance(module, RoutingNetwork):
        return prepare_for_inference(module, graphs=graphs)
    if isinstance(module, SegmentationDecoder):
        return PreparedDecoder(module)
    if type(module) is ProjectionNeck and _is_lean(module):
        return PreparedProjection(module)
    return None


class PreparedProjection(nn.Module):
    """A neck of one 1x1 convolution a level that skips the levels which nothing reached.

    On zeros a convolution gives its bias, which is what an image that does not reach a level gets.

    Args:
        neck: the trained neck, whose norms can be folded; it is left as it is.
    """

    def __init__(self, neck: ProjectionNeck) -> None:
        super().__init__()
        self.out_channels = neck.out_channels
        self.lateral = nn.ModuleDict({n: fold_conv(conv) for n, conv in neck.lateral.items()})
        self.eval()

    @torch.no_grad()
    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Level name -> (N, C_level, H, W) to level name -> (N, out_channels, H, W)."""
        reached = features.reached if isinstance(features, FeatureMaps) else {}
        names = [name for name in self.lateral if name in reached]
        rows = torch.stack([reached[name] for name in names]).tolist() if names else []
        known = dict(zip(names, rows, strict=True))
        return {
            name: self._level(conv, features[name], known.get(name))
            for name, conv in self.lateral.items()
        }

    def _level(self, conv: nn.Module, x: Tensor, reached: list[bool] | None) -> Tensor:
        """One level; for images that did not reach it, the constant."""
        if reached is None or all(reached):
            return conv(x)
        y = self._constant(conv, x)
        there = [n for n, here in enumerate(reached) if here]
        if there:
            y[there] = conv(x[there]).to(y.dtype)
        return y

    def _constant(self, conv: nn.Module, x: Tensor) -> Tensor:
        """What ``conv`` gives on zeros, (N, out_channels, H, W)."""
        assert isinstance(conv, FoldedConv), f"not folded: {type(conv).__name__}"
        shape = (len(x), self.out_channels, *x.shape[-2:])
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        if conv.bias is None:
            return y.zero_()
        return y.copy_(conv.bias[None, :, None, None].expand_as(y))


def _is_lean(neck: ProjectionNeck) -> bool:
    """Whether zeros pass the neck as a constant: not through a norm over the map, such as GN."""
    return all(is_foldable(getattr(conv, "norm", None)) for conv in neck.lateral.values())


def fold_conv(conv: nn.Module) -> FoldedConv:
    """Detectron2's convolution with its norm folded."""
    assert isinstance(conv, Conv2d) and conv.activation is None, f"not a projection: {conv}"
    weight, bias = folded_weights(conv, conv.norm)
    return FoldedConv(weight, bias, like=conv, relu=False)
