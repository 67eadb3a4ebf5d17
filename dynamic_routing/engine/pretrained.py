"""A trained model in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.engine.checkpoint_history import checkpoint_of
from dynamic_routing.engine.weight_files import CheckpointError
from dynamic_routing.modeling.config import get_config

CONFIG = "config.yaml"
"""What a run writes beside its checkpoints."""


def load_pretrained(
    path: str | Path,
    *,
    config_file: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str = "auto",
) -> nn.Module:
    """A model with its weights, in evaluation mode.

    Args:
        path: a checkpoint (.pth or .safetensors, ours or the released code's), or a run's folder,
            of which the newest checkpoint is taken.
        config_file: the model's config; by default ``config.yaml`` beside the checkpoint.
        overrides: alternating config keys and values.
        device: where to put the model; "auto" takes the GPU if there is one.

    Returns:
        The config's meta-architecture. It maps a list of {"image": (3, H, W) in
        ``INPUT.FORMAT``, 0..255} to one output an image, with ``"routes"``.

    Raises:
        CheckpointError: no checkpoint or no config there, or one that does not fit the other.
        ConfigError: a config that cannot be used.

    Example:
        >>> model = load_pretrained("output/dr_c")
        >>> model([{"image": torch.zeros(3, 512, 1024)}])[0]["sem_seg"].shape
    """
    checkpoint = checkpoint_of(path) if Path(path).is_dir() else Path(path)
    config = Path(config_file) if config_file else checkpoint.parent / CONFIG
    if not config.is_file():
        raise CheckpointError(f"{config} does not exist; config_file says where the config is")
    cfg = get_config(config, [*overrides, "MODEL.DEVICE", device])
    return build_loaded(cfg, checkpoint)


def build_loaded(cfg: CfgNode, checkpoint: str | Path) -> nn.Module:
    """The config's model with a checkpoint's weights, every tensor found, in evaluation mode."""
    model = build_model(cfg)
    RoutingCheckpointer(model, strict=True).load(str(checkpoint))
    return model.eval()
