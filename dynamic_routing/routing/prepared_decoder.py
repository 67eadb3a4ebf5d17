"""The segmentation decoder for weights that no longer change: it skips what nothing reached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dynamic_routing.routing.cells import upsample
from dynamic_routing.routing.decoder import SegmentationDecoder
from dynamic_routing.routing.folding import fold
from dynamic_routing.routing.prepared import double_size, positions
from dynamic_routing.routing.space import STEM_STRIDE


class PreparedDecoder(nn.Module):
    """:class:`SegmentationDecoder` with norms folded, for evaluation only.

    A level at which nothing has arrived, neither its feature nor a coarser one, does not run, and
    a feature that nothing reached is not added. Where nothing arrived anywhere the scores are the
    predictor's bias, and nothing runs at all.

    Args:
        decoder: the trained decoder; it is left as it is.
    """

    def __init__(self, decoder: SegmentationDecoder) -> None:
        super().__init__()
        self.channels = decoder.channels
        self.context = None if decoder.context is None else fold(decoder.context)
        self.levels = nn.ModuleList(fold(level) for level in decoder.levels)
        self.predictor = fold(decoder.predictor)
        self.eval()

    @torch.no_grad()
    def forward(
        self, features: Mapping[int, Tensor], reached: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """Score every pixel; arguments and result as those of the decoder."""
        count = len(features[0])
        groups = self._groups(reached, count, one_by_one=features[0].device.type == "cpu")
        parts = [(rows, self._scores(features, rows, levels)) for rows, levels in groups]
        if len(parts) == 1:
            return parts[0][1]
        joined = torch.cat([part for _, part in parts])  # autocast leaves some in float32
        order = [n for rows, _ in parts for n in rows]
        if order == sorted(order):
            return joined
        back = sorted(range(count), key=order.__getitem__)
        return joined.index_select(0, positions(back, device=joined.device))

    def _groups(
        self, reached: Mapping[int, Tensor] | None, count: int, *, one_by_one: bool
    ) -> list[tuple[list[int], tuple[bool, ...]]]:
        """Images (positions) that run together, and the levels whose features they have."""
        depth = len(self.levels)
        everything = [(True,) * depth] * count
        if reached is None:
            patterns = everything
        else:
            read = torch.stack([reached[s].to(reached[0].device) for s in range(depth)], dim=1)
            patterns = [tuple(row) for row in read.tolist()]
        if one_by_one:
            return [([n], pattern) for n, pattern in enumerate(patterns)]
        groups: dict[tuple[bool, ...], list[int]] = defaultdict(list)
        for n, pattern in enumerate(patterns):
            groups[pattern].append(n)
        return [(rows, pattern) for pattern, rows in groups.items()]

    def _scores(
        self, features: Mapping[int, Tensor], rows: Sequence[int], levels: Sequence[bool]
    ) -> Tensor:
        """Scores of some images that have the same features."""
        previous: Tensor | None = None
        coarsest = len(self.levels) - 1
        for scale in reversed(range(len(self.levels))):
            if not levels[scale] and previous is None:
                continue
            x = self._joined(_rows(features[scale], rows) if levels[scale] else None, previous)
            if self.context is not None and scale == coarsest:
                x = self.context(x)
            previous = self.levels[scale](x)
        if previous is None:
            return self._scores_of_nothing(features[0], len(rows))
        return upsample(self.predictor(previous), STEM_STRIDE)

    def _joined(self, feature: Tensor | None, previous: Tensor | None) -> Tensor:
        """A level's input: its feature, the coarser level at twice its size, or their sum."""
        if previous is None:
            assert feature is not None, "a level without any input"
            return feature
        doubled = double_size(previous)
        return doubled if feature is None else doubled.add_(feature)

    def _scores_of_nothing(self, like: Tensor, count: int) -> Tensor:
        """The predictor's bias everywhere."""
        bias = self.predictor.bias
        assert isinstance(bias, Tensor), "the predictor has a bias"
        height, width = (side * STEM_STRIDE for side in like.shape[-2:])
        return bias[None, :, None, None].expand(count, -1, height, width).contiguous()


def _rows(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Some images of a batch, in channels-last."""
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows):
        part = x[first : last + 1]
    else:
        part = x.index_select(0, positions(rows, device=x.device))
    return part.contiguous(memory_format=torch.channels_last)
