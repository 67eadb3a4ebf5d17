"""Half a formula in the name of a run, a file or a class is shown as it is."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.patches import Patch

from dynamic_routing.analysis.compared_curves import curves_figure
from dynamic_routing.analysis.curves import TrainingLog, training_figure
from dynamic_routing.analysis.panel import encode_png, tiles_panel
from dynamic_routing.analysis.sample_figure import Sample, sample_figure
from dynamic_routing.analysis.strip import grid_picture
from dynamic_routing.routing import RoutingSpace
from dynamic_routing.routing.routes import Routes

HALF = r"price $\frac{$.png"
SPACE = RoutingSpace.grid(2, num_scales=2)
TILE = np.zeros((8, 8, 3), np.uint8)


def test_half_a_formula_is_drawn_by_every_figure(tmp_path):
    log = TrainingLog({i: {"total_loss": 1.0, f"loss_{HALF}": 2.0} for i in range(3)})
    compared = curves_figure({HALF: log}, [f"loss_{HALF}"])
    legend = [Patch(label=HALF)]
    for figure in (
        compared,
        training_figure(log),
        sample_figure(Sample({"a": TILE}, HALF, legend)),
    ):
        encode_png(figure, dpi=20)
    gates = torch.ones(len(SPACE.edges))
    grid_picture(SPACE, gates, caption=HALF)
    routes = Routes(SPACE, gates[None], "absent", (8, 8))
    tiles_panel({"a": TILE}, routes=routes, title=HALF, path=tmp_path / "a.png", legend=legend)
    assert [text.get_text() for text in compared.legends[0].get_texts()] == [HALF]
