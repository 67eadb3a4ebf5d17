#!/usr/bin/env python3
"""Translate weights of the released Dynamic Routing code into ours, or back, and check them.

Examples:
    F=configs/Cityscapes-SemanticSegmentation/dr_raw_l16_186k.yaml
    python tools/convert_weights.py released.pth ours.pth --config-file $F
    python tools/convert_weights.py ours.pth released.pth --config-file $F --reverse
    # the same weights in another format
    python tools/convert_weights.py model_final.pth model.safetensors --config-file $F
    # a pickle of a source that you trust: this runs whatever it holds
    python tools/convert_weights.py checkpoint.pkl ours.pth --config-file $F --trust

Every tensor is accounted for: nothing is written if a tensor of the backbone is missing, left
over or of another shape than the config's network has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.modeling import build_model
from torch import Tensor, nn

from dynamic_routing.engine.checkpoint import RoutingCheckpointer
from dynamic_routing.engine.weight_files import read_weights, write_weights
from dynamic_routing.engine.weights_fit import check_fit
from dynamic_routing.modeling import get_config
from dynamic_routing.modeling.released_weights import from_released, is_released, to_released


def empty_model(config_file: Path, overrides: list[str]) -> nn.Module:
    """The config's model without memory: its names and shapes are all that is needed."""
    return build_model(get_config(config_file, [*overrides, "MODEL.DEVICE", "meta"]))


def ours_of(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Weights under our names, and whether they had to be translated."""
    released = is_released(state)
    bare = {name.removeprefix("module."): x for name, x in state.items()}
    return (from_released(state) if released else bare), released


def without_rule(rules: Mapping[str, Any]) -> dict[str, Any]:
    """A network's rules less the one that the config sets otherwise than the weights need."""
    return {name: value for name, value in rules.items() if name != "unreached rule"}


def convert(args: argparse.Namespace) -> str:
    """Translate, check, write, and say what was done.

    Raises:
        ValueError: anything that the user has to mend, in one line.
    """
    model = empty_model(args.config_file, args.opts)
    content = read_weights(args.input, trust=args.trust)
    state, was_released = ours_of(content["model"])
    notes = [f"{len(state)} tensors"]
    notes += [f"{name} differs and starts anew" for name in check_fit(model, state)]
    routing = RoutingCheckpointer(model).routing_rules()
    rules = {rules["unreached rule"] for rules in routing.values()}
    if was_released and rules != {"released"}:
        notes.append(
            "the released code's results need MODEL.DYNAMIC_ROUTING.UNREACHED released, the "
            f"config says {', '.join(sorted(rules))}: the file leaves the rule open"
        )
        routing = {name: without_rule(of_network) for name, of_network in routing.items()}
    if args.reverse:
        write_weights(args.output, to_released(state))
        notes.append("under the released code's names")
    else:
        stored = content.get("routing") or routing
        write_weights(args.output, state, routing=stored)
        notes.append(f"{'translated to' if was_released else 'under'} our names")
    return f"{args.output}: " + "; ".join(notes)


def main(argv: list[str] | None = None) -> int:
    """Parse and convert."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("input", type=Path, metavar="IN", help=".pth or .safetensors")
    parser.add_argument("output", type=Path, metavar="OUT", help=".pth or .safetensors")
    parser.add_argument("--config-file", type=Path, required=True, metavar="F")
    parser.add_argument("--reverse", action="store_true", help="from our names to the released")
    parser.add_argument("--trust", action="store_true", help="run the code that a pickle may hold")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    args = parser.parse_intermixed_args(argv)
    try:
        print(convert(args))
    except (ValueError, OSError) as error:
        print(f"convert_weights.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
