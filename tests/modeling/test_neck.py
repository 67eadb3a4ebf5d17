from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone

from dynamic_routing.modeling.neck import NECKS, ProjectionNeck, TopDownNeck
from tests.modeling.detectors import detection_batch, small_detector

CHANNELS = {"p2": 4, "p3": 8, "p4": 16}


def maps():
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, c, 32 >> i, 48 >> i, generator=generator)
        for i, (name, c) in enumerate(CHANNELS.items())
    }


class Given(Backbone):
    """A backbone that returns what it is given."""

    def forward(self, x):
        return x

    def output_shape(self):
        return {
            n: ShapeSpec(channels=c, stride=4 << i) for i, (n, c) in enumerate(CHANNELS.items())
        }


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("name", NECKS)
def test_neck_brings_every_level_to_one_width(name, norm):
    neck = NECKS[name](CHANNELS, out_channels=6, norm=norm)
    given, found = maps(), neck(maps())
    assert list(found) == list(given)
    for level, x in found.items():
        assert x.shape == (2, 6, *given[level].shape[-2:])
        conv = neck.lateral[level]
        assert (conv.bias is None) == bool(norm)


def test_projection_is_a_matrix_product_at_every_position():
    neck = ProjectionNeck(CHANNELS, out_channels=6)
    for level, x in neck(maps()).items():
        conv = neck.lateral[level]
        by_hand = torch.einsum("oc,nchw->nohw", conv.weight[:, :, 0, 0], maps()[level])
        torch.testing.assert_close(x, by_hand + conv.bias[:, None, None])


def test_top_down_neck_equals_detectron2_fpn():
    neck = TopDownNeck(CHANNELS, out_channels=6).eval()
    fpn = FPN(Given(), list(CHANNELS), 6).eval()
    for level, name in zip(CHANNELS, ("2", "3", "4"), strict=True):
        getattr(fpn, f"fpn_lateral{name}").load_state_dict(neck.lateral[level].state_dict())
        getattr(fpn, f"fpn_output{name}").load_state_dict(neck.output[level].state_dict())
    ours, theirs = neck(maps()), fpn(maps())
    for level, x in ours.items():
        torch.testing.assert_close(x, theirs[level])


def test_detector_with_top_down_neck_finds_its_levels():
    model = small_detector("MODEL.DYNAMIC_ROUTING.NECK", "top_down").eval()
    assert isinstance(model.backbone.neck, TopDownNeck)
    with torch.no_grad():
        output = model(detection_batch((64, 100), labels=False))[0]
    assert "instances" in output


@pytest.mark.parametrize(("channels", "out"), [({}, 4), ({"p2": 0}, 4), ({"p2": 4}, 0)])
def test_neck_without_channels_is_refused(channels, out):
    with pytest.raises(ValueError, match="at least one channel"):
        ProjectionNeck(channels, out_channels=out)
