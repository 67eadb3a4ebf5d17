"""The classic networks of Table 1 train as they are configured."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from dynamic_routing.modeling import get_config
from dynamic_routing.routing.subnetworks import CLASSIC
from tests.modeling.builders import CONFIGS, batch

SMALL = "MODEL.DEVICE cpu MODEL.DYNAMIC_ROUTING.WIDTH 4 MODEL.DYNAMIC_ROUTING.NORM BN".split()


@pytest.mark.parametrize("name", CLASSIC)
def test_classic_network_takes_a_step_that_reaches_every_parameter(name):
    file = CONFIGS / "Cityscapes-SemanticSegmentation" / f"{name}_l16_186k.yaml"
    model = build_model(get_config(file, [*SMALL, "MODEL.SEM_SEG_HEAD.NORM", "BN"])).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    loss = sum(model(batch((64, 64), (64, 64))).values())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    moved = [k for k, p in model.named_parameters() if not torch.equal(p, before[k])]
    assert any(k.startswith("backbone.network.cells") for k in moved)
    assert any(k.startswith("sem_seg_head.decoder.predictor") for k in moved)
