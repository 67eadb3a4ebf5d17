"""Every config key that this project adds to Detectron2's, with its unit and source.

``DR20`` is Li et al. 2020 (Dynamic Routing), ``DivDR`` Csaba et al. 2022, ``released`` the public
code of DR20.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from dynamic_routing.modeling.config_checks import config_problems
from dynamic_routing.modeling.config_files import load_yaml_chain
from dynamic_routing.modeling.config_values import of_type, with_floats
from dynamic_routing.routing import PUBLISHED_CELL


class ConfigError(ValueError):
    """A config that a user has to mend; its message is one line."""


def add_dynamic_routing_config(cfg: CfgNode) -> None:
    """Add this project's keys with the published defaults, in place."""
    _add_model_keys(cfg)
    _add_classifier_keys(cfg)
    _add_budget_keys(cfg)
    _add_divdr_keys(cfg)
    _add_average_keys(cfg)
    _add_solver_keys(cfg)
    _add_data_keys(cfg)
    # Whether only kernels run that repeat their results bit by bit; see README, "Reliability".
    cfg.DETERMINISTIC = False


def _add_model_keys(cfg: CfgNode) -> None:
    cfg.MODEL.DYNAMIC_ROUTING = CfgNode()
    node = cfg.MODEL.DYNAMIC_ROUTING

    node.SPACE = CfgNode()
    # Layers of cells after the initial one. DR20: 16 or 33 for segmentation; DivDR: 17, detection.
    node.SPACE.NUM_LAYERS = 16
    # Scales of an inner layer; 4 is strides 4 to 32 (DR20, Sec. 3.1). A sub-graph delivers at
    # least as many, so that heads keep their shape.
    node.SPACE.NUM_SCALES = 4
    # Scales of the last layer; 0: as the inner layers, 5: P2..P6 for detection (DivDR).
    node.SPACE.NUM_OUTPUT_SCALES = 0
    # A static sub-graph instead of the grid: fcn_32s, deeplab_v3, unet, hrnet_v2, auto_deeplab
    # (DR20, Table 1), or the path of a JSON file with [layer, scale, kind] triples.
    node.SPACE.SUBGRAPH = ""
    # The same, written out here; tools/extract_subnetwork.py fills it.
    node.SPACE.EDGES = []

    # Channels at stride 4; they double with the stride. An even number. DR20: 64.
    node.WIDTH = 64
    # Padding of the stem's first convolution in pixels, 0 (released) or 1.
    node.STEM_PADDING = 0
    # Operations of a cell, summed (DR20, Eq. 1 and Table 2).
    node.OPERATIONS = list(PUBLISHED_CELL)
    # Norm of backbone and gates: BN, SyncBN, naiveSyncBN, GN or FrozenBN. DR20: SyncBN.
    node.NORM = "SyncBN"
    # Scheduled drop path: probability at the last layer and iteration (released: 0.3 with the
    # long schedule, else 0).
    node.DROP_PATH = 0.0
    # Whether training leaves out cells and edges that no image of the batch opens: the same losses
    # and gradients in less time and memory. Running statistics of norms that are left out stay.
    node.SKIP_CLOSED = True
    # Whether evaluation and prediction run single images from recorded CUDA graphs; without effect
    # on a CPU.
    node.CUDA_GRAPHS = False

    node.GATE = CfgNode()
    # max_tanh, sigmoid, softmax, or fixed for no gate at all (DR20, Table 3).
    node.GATE.ACTIVATION = "max_tanh"
    # Where the gate's bias starts; 1.5 gives an activation of 0.905 (DR20, Sec. 3.3).
    node.GATE.BIAS_INIT = 1.5
    # Whether gates see their input at a quarter of the size (released: budgets A, B, C).
    node.GATE.SMALL = False

    # What a node does for an image that no open edge brings to it: absent (ours) or released
    # (the published code, for its weights). See README, "Deviations".
    node.UNREACHED = "absent"
    # From the outputs to one width (FPN.OUT_CHANNELS, FPN.NORM) for build_dynamic_routing_fpn_
    # backbone: projection (one 1x1 convolution a level) or top_down (FPN's pathway on top).
    node.NECK = "projection"
    # Put PSPNet's pooling on the coarsest feature of the decoder head (DR20, Layer33-PSP).
    node.PYRAMID_POOLING = False


def _add_classifier_keys(cfg: CfgNode) -> None:
    cfg.MODEL.CLASSIFIER = CfgNode()
    # Classes of META_ARCHITECTURE ImageClassifier; ImageNet: 1000.
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 1000
    # Share of the target that is spread over all classes, in [0, 1) (Szegedy et al. 2016: 0.1).
    cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING = 0.1
    cfg.INPUT.CLASSIFICATION = CfgNode()
    # Side in pixels of the square image that a classifier sees ...
    cfg.INPUT.CLASSIFICATION.SIZE = 224
    # ... which in training is a part of the image with an area in this range, relative to all.
    cfg.INPUT.CLASSIFICATION.SCALE_RANGE = [0.08, 1.0]
    # Shorter side in pixels from which the middle is cut in testing.
    cfg.INPUT.CLASSIFICATION.TEST_RESIZE = 256


def _add_budget_keys(cfg: CfgNode) -> None:
    cfg.MODEL.DYNAMIC_ROUTING.BUDGET = CfgNode()
    node = cfg.MODEL.DYNAMIC_ROUTING.BUDGET
    # Weight lambda of the budget loss; 0 switches it off (DR20, Table 4: A 0.8, B 0.5, C 0.5).
    node.LAMBDA = 0.0
    # Wished share mu of the full expected cost, in [0, 1] (DR20, Table 4: A 0.1, B 0.1, C 0.2).
    node.MU = 0.0
    # The loss is off before this share of the iterations ... (released)
    node.START = 0.4
    # ... and grows to its weight over this share of them (released).
    node.RAMP = 0.02
    # Wished executed cost in GMACs (10^9 multiply-adds) of the whole network, averaged over
    # images; replaces LAMBDA and MU. 0: no target. See README, "A target in GMACs".
    node.TARGET_GMACS = 0.0
    # Image size (height, width) in pixels at which the target is meant.
    node.TARGET_SIZE = [1024, 2048]
    # Share of the iterations at which the cost should have reached the target.
    node.ARRIVE = 0.6
    # Iterations between two looks at the executed cost ...
    node.PROBE_PERIOD = 50
    # ... and training images that each look takes.
    node.PROBE_IMAGES = 8


def _add_divdr_keys(cfg: CfgNode) -> None:
    cfg.MODEL.DYNAMIC_ROUTING.DIVDR = CfgNode()
    node = cfg.MODEL.DYNAMIC_ROUTING.DIVDR
    # Clusters of routes K, at least 2; 0 switches all of this off (DivDR: 2, 3 or 4).
    node.NUM_CLUSTERS = 0
    # Weight lambda_2 of the loss; 0 clusters and measures only. DivDR does not state it; above
    # 0.5 it costs accuracy there (Sec. 4.2). Ours: README, "Controlled study".
    node.WEIGHT = 0.3
    # Margin alpha, at least 0. DivDR does not state it. Ours: README, "Controlled study".
    node.MARGIN = 1.0
    # Power of the distances in the loss: 1 (DivDR, Eq. 2, as printed) or 2 (Magnet loss).
    node.NORM_POWER = 1
    # Activations that are clustered: bank (latest of each training image, free of cost), subset
    # (a pass over some training images) or full (over all). DivDR does not say.
    node.SOURCE = "bank"
    # Images of SOURCE subset.
    node.SUBSET_SIZE = 1024
    # Iterations between two clusterings (DivDR, Sec. 7.1: 50; above 100 routes collapse).
    node.PERIOD = 50
    # The same at the end of training, reached in a straight line; 0: PERIOD (DivDR, Sec. 7.1,
    # suggests longer ones late in training).
    node.PERIOD_FINAL = 0
    # First iteration that clusters; before it the loss is 0 (ours; DivDR: 0). A warm-up helps.
    node.START_ITER = 0
    # Whether clusters that became empty or equal start anew (ours; DivDR: no).
    node.RESEED = True
    # Seed of k-means++, of the subset and of the metrics' samples.
    node.SEED = 0
    # Most images that SOURCE bank keeps; each takes 4 bytes a dimension of A (200 dimensions).
    node.MAX_IMAGES = 200000


def _add_average_keys(cfg: CfgNode) -> None:
    cfg.MODEL.EMA = CfgNode()
    # Whether a moving average of the weights is kept beside them (ours; the papers: no).
    cfg.MODEL.EMA.ENABLED = False
    # Share of the average that an update keeps, in [0, 1); fewer in the first 10 / (1 - this) ones.
    cfg.MODEL.EMA.DECAY = 0.9998
    # What is evaluated: the model, the average ("ema"), or both, then the average as ema/<task>.
    cfg.MODEL.EMA.EVALUATE = "both"


def _add_solver_keys(cfg: CfgNode) -> None:
    # Exponent of the polynomial decay, LR_SCHEDULER_NAME "WarmupPolyLR" (DR20: 0.9).
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # Learning-rate factor of everything inside a gate (released: 2.5).
    cfg.SOLVER.GATE_LR_FACTOR = 2.5
    # Batch size for which BASE_LR is meant, in images; the learning rate is scaled by
    # IMS_PER_BATCH / this (linear rule). 0: take BASE_LR as it is.
    cfg.SOLVER.REFERENCE_IMS_PER_BATCH = 0
    # Parts in which each process takes its share of IMS_PER_BATCH, one after the other, before one
    # update: less memory, the same step unless norms look at the batch. IMS_PER_BATCH, MAX_ITER
    # and the schedule mean whole batches and updates all the same.
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Type of mixed precision (AMP.ENABLED): bfloat16, float16 with a scaled loss (CUDA only), or
    # auto: float16 on CUDA, as Detectron2, and bfloat16 on the CPU.
    cfg.SOLVER.AMP.DTYPE = "auto"


def _add_data_keys(cfg: CfgNode) -> None:
    # Data sets of your own: a list of {name, type: sem_seg | coco, ...}, see README, "Own data".
    cfg.DATASETS.CUSTOM = []
    # Range of the random scaling of training images relative to their own size (DR20: 0.5 to 2).
    cfg.INPUT.SCALE_RANGE = [0.5, 2.0]
    # Training crop (height, width) in pixels for segmentation (DR20: 768 x 768).
    cfg.INPUT.SEM_SEG_CROP = [768, 768]
    # Views of test-time augmentation for segmentation, relative to the image; TEST.AUG.FLIP adds
    # their mirror images.
    cfg.TEST.AUG.SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    # Metric, as group/name, that selects model_best.pth; empty: no best checkpoint.
    cfg.TEST.BEST_METRIC = "sem_seg/mIoU"


def get_config(config_file: str | Path | None = None, overrides: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults, our keys, one YAML file and command-line overrides, not frozen.

    YAML is read without Python tags, so a config from a stranger cannot run code.

    Args:
        config_file: a YAML file, or None for the defaults.
        overrides: alternating keys and values, as behind ``train_net.py``.

    Raises:
        ConfigError: no such file, unreadable YAML, an unknown key (with the nearest known one),
            a value of the wrong type, or one that cannot work.
    """
    cfg = get_cfg()
    add_dynamic_routing_config(cfg)
    if config_file:
        if not Path(config_file).is_file():
            raise ConfigError(f"config file {config_file} does not exist")
        _explained(cfg, lambda: _merge_file(cfg, str(config_file)))
    if len(overrides) % 2:
        raise ConfigError(f"overrides are pairs of KEY VALUE, got {' '.join(overrides)}")
    _explained(cfg, lambda: cfg.merge_from_list(with_floats(cfg, overrides)))
    resolve_device(cfg)
    problem = next(config_problems(cfg), None)
    if problem:
        raise ConfigError(problem)
    return cfg


def _merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file and its ``_BASE_`` chain, reading no Python tags."""
    loaded = load_yaml_chain(path)
    cfg.merge_from_other_cfg(CfgNode(_fitted(cfg, loaded)))


def _fitted(defaults: CfgNode, loaded: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Whole numbers as floats and texts as texts where the default is one; groups as groups."""
    fitted = dict(loaded)
    for key, value in loaded.items():
        default = defaults.get(key)
        if not isinstance(default, CfgNode):
            fitted[key] = of_type(value, default)
        elif isinstance(value, dict):
            fitted[key] = _fitted(default, value, f"{prefix}{key}.")
        else:
            raise ConfigError(f"config key {prefix}{key} is a group of keys, got {value!r}")
    return fitted


def _explained(cfg: CfgNode, merge: Any) -> None:
    """Run a merge and turn what yacs and PyYAML raise into one line."""
    try:
        merge()
    except ConfigError:
        raise
    except (KeyError, AssertionError) as error:  # yacs: str(KeyError) would add quotes
        text = str(error.args[0]) if error.args else "unknown key"
        unknown = re.search(r"Non-existent (?:config )?key: ([\w.-]+)", text)
        if not unknown:
            raise ConfigError(f"config cannot be read: {text}") from None
        key = unknown.group(1)
        raise ConfigError(f"unknown config key {key}{did_you_mean(key, known_keys(cfg))}") from None
    except Exception as error:  # yacs, YAML and file errors; each names its own cause
        text = " ".join(str(error).split())
        raise ConfigError(f"config cannot be read: {text or type(error).__name__}") from None


def known_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    """Every dotted key of a config."""
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += known_keys(value, f"{prefix}{name}.")
    return keys


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`` (did you mean X?)``, or nothing when no known word is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def resolve_device(cfg: CfgNode) -> None:
    """Replace ``MODEL.DEVICE: auto`` by cuda where there is one, else cpu."""
    if cfg.MODEL.DEVICE == "auto":
        import torch

        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
