"""Feature maps that know for which images they exist."""

from __future__ import annotations

from torch import Tensor


class FeatureMaps(dict[str, Tensor]):
    """Name -> (N, C, H, W), as every Detectron2 backbone returns, plus who reached them.

    Any head can use it as a plain dict; ours reads :attr:`reached`.

    Attributes:
        reached: name -> (N,) bool, whether anything arrived at that output for the image.
    """

    def __init__(self, features: dict[str, Tensor], reached: dict[str, Tensor]) -> None:
        super().__init__(features)
        self.reached = reached


def feature_name(scale: int) -> str:
    """Detectron2's pyramid name of a scale: 0 (stride 4) is p2, 4 (stride 64) is p6."""
    return f"p{scale + 2}"
