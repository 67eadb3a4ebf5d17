"""TensorBoard pictures of routes: they show what was trained, and leave the training alone."""

from __future__ import annotations

import io
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, TensorboardXWriter
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynamic_routing.engine import route_pictures_hook as module
from dynamic_routing.engine.route_pictures_hook import (
    RoutePictures,
    TrainingRoutes,
    build_route_pictures,
    load_fixed_inputs,
)
from tests.engine.divdr_training import BATCH, ShortTrainer, short_config
from tests.modeling.builders import PLAIN, batch, small_config, small_model
from tests.modeling.detectors import MASK, detection_batch, small_detector

PERIOD, ITERATIONS = 2, 6
LEARNING = (
    "MODEL.DYNAMIC_ROUTING.NORM BN MODEL.DYNAMIC_ROUTING.DROP_PATH 0.3 "
    f"SOLVER.MAX_ITER {ITERATIONS} SOLVER.CHECKPOINT_PERIOD 100"
).split()


class WrittenTrainer(ShortTrainer):
    """Short trainings with TensorBoard files; keeps every loss."""

    def build_writers(self):
        return [TensorboardXWriter(self.cfg.OUTPUT_DIR)]

    def run_step(self):
        super().run_step()
        latest = self.storage.latest().get("total_loss", [None])  # of the main process alone
        self.seen = [*getattr(self, "seen", []), latest[0]]


def training(folder, monkeypatch, period):
    """A training of a few iterations with two fixed images; every generator starts anew."""
    monkeypatch.setattr(module, "load_fixed_inputs", lambda cfg: batch((32, 32), (32, 64), seed=9))
    random.seed(0)
    np.random.seed(0)
    trainer = WrittenTrainer(short_config(folder, *LEARNING, "VIS_PERIOD", str(period)))
    torch.manual_seed(0)
    trainer.train()
    return trainer


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0})
    return found.Reload()


@pytest.mark.slow
def test_training_is_bit_equal_with_and_without_pictures(tmp_path, monkeypatch):
    states = []
    for period in (0, PERIOD):
        trainer = training(tmp_path / str(period), monkeypatch, period)
        generators = random.random(), np.random.rand(), float(torch.rand(()))
        states.append((trainer.seen, generators, trainer.model.state_dict()))
    (losses, generators, weights), (drawn_losses, drawn_generators, drawn_weights) = states
    assert len(losses) == ITERATIONS and losses == drawn_losses and generators == drawn_generators
    assert any("running_mean" in name for name in weights)
    assert all(torch.equal(weights[name], drawn_weights[name]) for name in weights)
    assert "images" in (tags := events(tmp_path / "0").Tags()) and not tags["images"]


@pytest.mark.slow
def test_event_file_holds_histograms_and_pictures_of_every_period(tmp_path, monkeypatch):
    trainer = training(tmp_path, monkeypatch, PERIOD)
    found, space = events(tmp_path), trainer.model.backbone.network.space
    steps = [i - 1 for i in range(PERIOD, ITERATIONS + 1, PERIOD)]
    pictures = ["routes/edge_frequency", "routes/validation_0", "routes/validation_1"]
    assert sorted(found.Tags()["images"]) == pictures
    for name in pictures:
        assert [event.step for event in found.Images(name)] == steps
        image = Image.open(io.BytesIO(found.Images(name)[-1].encoded_image_string))
        assert image.width == 1200 and image.height > 250 and len(image.getcolors(1 << 20)) > 20
    scales = {f"gates/scale_1_{4 << s}" for s in space.scales}
    assert set(found.Tags()["histograms"]) == scales
    for name in scales:
        stride = int(name.rsplit("_", 1)[1])
        columns = sum(edge.source.stride == stride for edge in space.edges)
        for event in found.Histograms(name):
            value = event.histogram_value
            assert sum(value.bucket) == PERIOD * BATCH * columns
            assert 0 <= value.min <= value.max <= 1
    network = trainer.model.backbone.network
    assert not network._forward_hooks and trainer.model.training


def test_frequency_counts_training_images_only_and_starts_anew():
    network = small_model(seed=2).backbone.network
    routes = TrainingRoutes(network.space)
    network.register_forward_hook(routes)
    images = torch.stack([x["image"] for x in batch((32, 32), (32, 32), (32, 32))]) / 100
    network.train()
    gates = torch.cat([network(images).routes.gates, network(images[:2]).routes.gates])
    with torch.no_grad():
        network(images)
    network.eval()
    network(images)
    assert routes.images == 5
    assert torch.allclose(routes.frequency, (gates > 0).double().mean(dim=0))
    by_scale, total = routes.by_scale(), float(gates.detach().sum())
    assert sum(len(row) for row in by_scale.values()) == gates.numel()
    assert sum(float(row.sum()) for row in by_scale.values()) == pytest.approx(total)
    routes.reset()
    network.train()(images[:2])
    assert routes.images == 2


def test_fixed_images_are_the_same_every_time_and_follow_the_seed(monkeypatch):
    records = [{"file_name": str(i)} for i in range(50)]
    monkeypatch.setattr(module, "get_detection_dataset_dicts", lambda *_, **__: records)
    monkeypatch.setattr(module, "build_mapper", lambda *_, **__: lambda record: record)
    cfg = small_config("DATASETS.TEST", "('any',)", "SEED", "3")
    chosen = load_fixed_inputs(cfg)
    assert chosen == load_fixed_inputs(cfg) and len(chosen) == 2 and chosen[0] != chosen[1]
    assert load_fixed_inputs(small_config("DATASETS.TEST", "('any',)", "SEED", "4")) != chosen
    assert load_fixed_inputs(small_config("DATASETS.TEST", "()")) == []


def test_hook_is_there_only_where_it_is_asked_for_and_can_work(monkeypatch):
    on = small_config("VIS_PERIOD", "5")
    model = small_model()
    assert isinstance(build_route_pictures(on, model), RoutePictures)
    assert build_route_pictures(small_config(), model) is None
    assert build_route_pictures(on, small_model(*PLAIN)) is None
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert build_route_pictures(on, model) is None


def test_embedding_is_made_behind_a_complete_training_only():
    calls = []
    hook = RoutePictures(small_model(), period=5, finish=lambda: calls.append(1))
    for done, expected in ((3, 0), (10, 1)):
        hook.trainer = SimpleNamespace(iter=done, max_iter=10)
        hook.before_train()
        hook.after_train()
        assert len(calls) == expected


def test_detectrons_own_pictures_draw_no_random_number():
    model = small_detector(*MASK, "VIS_PERIOD", "1", seed=1).train()
    torch.manual_seed(0)
    np.random.seed(0)
    with EventStorage(0) as storage:
        model(detection_batch((64, 64), (64, 64)))
    assert storage._vis_data  # it did draw
    drawn = np.random.rand()  # of the generator that Detectron2's colours come from
    np.random.seed(0)
    assert drawn == np.random.rand()


def _two_processes(rank, folder, period):
    """One of two processes with every other image of each batch."""
    torch.set_num_threads(1)  # before any operation: a forked child must not start OpenMP threads
    warnings.simplefilter("ignore")  # Detectron2's call of DistributedDataParallel
    store = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    with pytest.MonkeyPatch.context() as patch:
        trainer = training(folder, patch, period)
    hooks = sum(isinstance(hook, RoutePictures) for hook in trainer._hooks)
    torch.save({"losses": trainer.seen, "hooks": hooks}, folder / f"{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_only_the_main_process_draws_and_the_other_goes_on(tmp_path):
    found = {}
    for period in (0, PERIOD):
        folder = tmp_path / str(period)
        folder.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork beside threads
            torch.multiprocessing.start_processes(
                _two_processes, args=(folder, period), nprocs=2, start_method="fork"
            )
        found[period] = [torch.load(folder / f"{r}.pth", weights_only=True) for r in range(2)]
    assert [part["hooks"] for part in found[PERIOD]] == [1, 0]
    assert found[PERIOD][0]["losses"] == found[0][0]["losses"]
    assert len(found[0][0]["losses"]) == ITERATIONS
    assert len(events(tmp_path / str(PERIOD)).Images("routes/edge_frequency")) == 3
