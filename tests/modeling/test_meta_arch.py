"""Segmentors over a routed backbone: training, inference, and what must not depend on a batch."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from dynamic_routing.modeling.meta_arch import image_id
from dynamic_routing.routing import Node, Routes, RoutingSpace
from tests.modeling.builders import (
    CLASSES,
    FPN_HEAD,
    PLAIN,
    PSP,
    QUICK,
    batch,
    relative_error,
    small_config,
    small_model,
)
from tests.routing.builders import set_edge_bias

SPACE = RoutingSpace.grid(3)
MODELS = {
    "dynamic": (),
    "dynamic, psp": PSP,
    "dynamic, fpn head": tuple(FPN_HEAD),
    "plain": PLAIN,
    "plain, fpn head": (*PLAIN, *FPN_HEAD),
}
every_model = pytest.mark.parametrize("overrides", MODELS.values(), ids=list(MODELS))
BUDGET = "MODEL.DYNAMIC_ROUTING.BUDGET"


def train(model, inputs, steps, lr=0.05):
    """Losses of SGD steps on one batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    with EventStorage(0):
        for _ in range(steps):
            loss = sum(model.train()(inputs).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def infer(model, inputs):
    return model.eval()(inputs)


def assert_same_outputs(joint, single):
    for a, b in zip(joint, single, strict=True):
        assert relative_error(a["sem_seg"], b["sem_seg"]) < 1e-5
        if "routes" in b:
            assert torch.equal(a["routes"].gates, b["routes"].gates)


@pytest.mark.parametrize("name", ["dynamic", "dynamic, psp", "plain, fpn head"])
def test_model_learns_a_fixed_batch_and_predicts(name):
    model = small_model(*MODELS[name])
    inputs = batch((64, 64), (64, 64))
    losses = train(model, inputs, steps=15)
    assert all(torch.tensor(losses).isfinite())
    assert losses[-1] < 0.8 * losses[0], losses
    for output in infer(model, inputs):
        assert output["sem_seg"].shape == (CLASSES, 64, 64)
        assert output["sem_seg"].isfinite().all()


def test_every_parameter_of_an_open_network_gets_a_gradient():
    model = small_model()
    with EventStorage(0):
        sum(model.train()(batch((64, 64), (64, 64))).values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []
    gates = [p.grad.abs().max() for n, p in model.named_parameters() if "gate.predict" in n]
    assert len(gates) == 2 * len(SPACE.nodes) and max(gates) > 0


@pytest.mark.parametrize("overrides", [(), FPN_HEAD], ids=["head", "fpn"])
def test_outputs_carry_the_route_of_their_image(overrides):
    model = small_model(*overrides, seed=3)
    inputs = batch((64, 64), (64, 64), (64, 64), labels=False)
    outputs = infer(model, inputs)
    found = []
    for output in outputs:
        routes = output["routes"]
        assert isinstance(routes, Routes) and len(routes) == 1 and routes.space == SPACE
        assert routes.gates.shape == (1, len(SPACE.edges)) and routes.image_size == (64, 64)
        assert not routes.gates.requires_grad and routes.gates.dtype == torch.float32
        assert output["milliseconds"] > 0
        found.append(routes.gates)
    images = torch.stack([(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs])
    with torch.no_grad():
        assert torch.equal(torch.cat(found), model.backbone.network(images).routes.gates)
    assert not torch.equal(found[0], found[1])


def test_plain_segmentor_gives_the_scores_of_the_dynamic_one():
    dynamic = small_model(seed=4)
    plain = small_model(*PLAIN)
    plain.load_state_dict(dynamic.state_dict())
    inputs = batch((64, 96), (64, 96), labels=False)
    for a, b in zip(infer(plain, inputs), infer(dynamic, inputs), strict=True):
        assert torch.equal(a["sem_seg"], b["sem_seg"]) and list(a) == ["sem_seg"]


@every_model
def test_images_of_any_size_come_back_in_the_size_asked_for(overrides):
    model = small_model(*overrides, seed=5)
    inputs = batch((100, 150), (37, 41), (64, 32), labels=False)
    inputs[0].update(height=50, width=301)
    sizes = [tuple(o["sem_seg"].shape) for o in infer(model, inputs)]
    assert sizes == [(CLASSES, 50, 301), (CLASSES, 37, 41), (CLASSES, 64, 32)]


@every_model
def test_odd_images_of_different_sizes_train_together(overrides):
    losses = train(small_model(*overrides), batch((100, 150), (37, 41)), steps=2)
    assert all(torch.tensor(losses).isfinite())


@every_model
def test_batch_equals_its_images_one_by_one(overrides):
    model = small_model(*overrides, seed=1)
    inputs = batch((64, 96), (64, 96), (64, 96), (64, 96), labels=False)
    single = [infer(model, [x])[0] for x in inputs]
    assert_same_outputs(infer(model, inputs), single)
    assert_same_outputs(infer(model, inputs[::-1]), single[::-1])


def gate_to_the_coarsest(model):
    """The gate of the only edge to stride 32, which every image reaches."""
    network = model.backbone.network
    for triple in ((-1, 0, "down"), (0, 1, "down")):
        set_edge_bias(network, triple, 1.0)
    set_edge_bias(network, (1, 2, "down"), 0.0)
    return network.cell(Node(1, 2)).gate


@torch.no_grad()
@pytest.mark.parametrize("overrides", [(), PSP, PLAIN], ids=["dynamic", "psp", "plain"])
def test_scores_do_not_depend_on_a_batch_in_which_only_some_images_reach_a_scale(overrides):
    model = small_model(*overrides, seed=6, bias=0.5).eval()
    gate = gate_to_the_coarsest(model)
    inputs = batch((64, 64), (64, 64), (64, 64), (64, 64), labels=False)
    images = torch.stack([(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs])
    # A threshold in the middle of what the gate sees: half of the images pass.
    seen = []
    handle = gate.register_forward_hook(lambda m, i, o: seen.append(m.pool(m.squeeze(i[0]))))
    model.backbone.network(images)
    handle.remove()
    assert len(seen) == len(inputs), "every image must get as far as this gate"
    signal = torch.cat(seen).flatten(1).sum(dim=1)
    gate.predict.weight[2] = 1.0
    gate.predict.bias[2] = -signal.sort().values[1:3].mean()
    reached = model.backbone(images).reached["p5"]
    assert 0 < reached.sum() < len(inputs)

    single = [model([x])[0] for x in inputs]
    assert_same_outputs(model(inputs), single)
    # What training computes for the batch is, image by image, what inference computes.
    dense = model.backbone.network.forward_dense(images)
    joint = model.sem_seg_head.decoder(
        dense.features, {s: dense.routes.output_reached(s) for s in range(4)}
    )
    for scores, output in zip(joint, single, strict=True):
        assert relative_error(scores, output["sem_seg"]) < 1e-5
    without = model.sem_seg_head.decoder(dense.features)
    absent = int((~reached).nonzero()[0])
    assert relative_error(without[absent], single[absent]["sem_seg"]) > 1e-3


@pytest.mark.parametrize("train_mode", [False, True])
def test_scores_are_the_predictors_bias_where_nothing_arrives(train_mode):
    model = small_model(seed=7).train(train_mode)
    head = model.sem_seg_head
    bias = nn.init.normal_(head.decoder.predictor.bias)
    features = {f"p{s + 2}": torch.zeros(2, 4 << s, 16 >> s, 16 >> s) for s in range(4)}
    reached = {s: torch.tensor([False, True]) for s in range(4)}
    scores = head.decoder({s: features[f"p{s + 2}"] for s in range(4)}, reached)
    assert torch.allclose(scores[0], bias[:, None, None].expand(-1, 64, 64), atol=1e-6)
    assert not torch.allclose(scores[1], bias[:, None, None].expand(-1, 64, 64), atol=1e-3)


@pytest.mark.parametrize("overrides", [(), PLAIN, (*PSP,)], ids=["dynamic", "plain", "psp"])
def test_batch_without_a_label_has_loss_0_and_finite_gradients(overrides):
    model = small_model(*overrides).train()
    inputs = batch((64, 64), (64, 64))
    for entry in inputs:
        entry["sem_seg"].fill_(255)
    with EventStorage(0):
        loss = model(inputs)["loss_sem_seg"]
    assert loss.detach().item() == 0.0
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() and not g.any() for g in gradients)


def test_ignored_pixels_and_padding_do_not_count():
    model = small_model(seed=8).eval()
    inputs = batch((64, 64), (40, 50))
    for entry in inputs:
        entry["sem_seg"][:, 20:] = 255
    images = [x["image"] for x in inputs]
    scores = [infer(model, [{"image": i}])[0]["sem_seg"] for i in images]
    labelled = [(s[:, :, :20], x["sem_seg"][:, :20]) for s, x in zip(scores, inputs)]
    expected = torch.cat(
        [-s.log_softmax(0).gather(0, t[None]).flatten() for s, t in labelled]
    ).mean()
    padded = torch.full((2, CLASSES, 64, 64), 1e4)
    targets = torch.full((2, 64, 64), 255)
    for n, (score, entry) in enumerate(zip(scores, inputs)):
        height, width = entry["sem_seg"].shape
        padded[n, :, :height, :width] = score
        targets[n, :height, :width] = entry["sem_seg"]
    assert float(model.sem_seg_head.loss(padded, targets)) == pytest.approx(float(expected))


def test_empty_batch_is_one_clear_error():
    with pytest.raises(ValueError, match="^expected at least one image, got an empty batch$"):
        small_model().eval()([])


def test_training_without_labels_is_one_clear_error():
    with pytest.raises(ValueError, match="training needs labels"):
        small_model().train()(batch((64, 64), (64, 64), labels=False))


def test_sync_norm_trains_on_a_cpu_in_one_process():
    norms = ("MODEL.DYNAMIC_ROUTING.NORM", "SyncBN", "MODEL.SEM_SEG_HEAD.NORM", "SyncBN")
    model = small_model(*norms)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    losses = train(model, batch((64, 64), (64, 64)), steps=3)
    assert losses[-1] < losses[0]


def test_budget_loss_joins_the_losses_from_its_start_on():
    model = small_model(f"{BUDGET}.LAMBDA", "0.5", f"{BUDGET}.MU", "0.2")
    inputs = batch((64, 64), (64, 64))
    with EventStorage(0):
        (budget,) = model.routing_losses
        off = model.train()(inputs)
        assert (
            set(off) == {"loss_sem_seg", "loss_budget"} and float(off["loss_budget"].detach()) == 0
        )
        budget.set_progress(0.5)
        losses = model(inputs)
    assert 0 < float(losses["loss_budget"].detach()) < 0.5
    losses["loss_budget"].backward()
    gate = model.backbone.network.cells["initial"].gate.predict
    assert gate.bias.grad.abs().min() > 0
    assert "routing_losses" not in " ".join(model.state_dict())


def test_training_logs_what_the_routes_cost():
    model = small_model(seed=9).train()
    with EventStorage(0) as storage:
        model(batch((64, 64), (64, 64)))
    logged = {k: v for k, (v, _) in storage.latest().items() if k.startswith("routing/")}
    assert 0 < logged["routing/executed_gmacs"] and 0 < logged["routing/expected_gmacs"]
    assert 0 < logged["routing/batch_open_share"] <= 1
    shares = [v for k, v in logged.items() if "share_stride" in k]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1)


def test_model_can_be_copied_after_training_and_leaves_no_hook():
    model = small_model()
    inputs = batch((64, 64), (64, 64))
    train(model, inputs, steps=1)
    twin = copy.deepcopy(model)
    assert_same_outputs(infer(twin, inputs), infer(model, inputs))
    assert not any(m._forward_hooks for m in model.modules())


def test_backbone_that_does_not_route_is_refused():
    cfg = small_config("MODEL.BACKBONE.NAME", "build_resnet_backbone")
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res4"]
    cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    with pytest.raises(ValueError, match="must build one routing network.*ResNet has 0"):
        build_model(cfg)


def test_quick_config_is_what_these_tests_shrink():
    assert QUICK.is_file() and small_config().MODEL.DYNAMIC_ROUTING.WIDTH == 4


def test_file_names_an_image_since_numbers_repeat_from_data_set_to_data_set():
    assert image_id({"file_name": "a/1.png", "image_id": 1}) == "a/1.png"
    assert image_id({"image_id": 1}) == "1" and image_id({}) == ""
