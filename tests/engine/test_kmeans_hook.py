"""The k-means hook in real trainings: when it clusters, what it logs, resuming, two processes."""

from __future__ import annotations

import copy
import logging
import warnings
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from dynamic_routing.divdr.bank import GateBank, Snapshot
from dynamic_routing.divdr.clustering import cluster
from dynamic_routing.divdr.loss import DivDRLoss
from dynamic_routing.divdr.schedule import ClusteringSchedule
from dynamic_routing.divdr.sources import BankSource
from dynamic_routing.engine.kmeans_hook import GateKMeansHook, build_kmeans_hook, check_images
from dynamic_routing.modeling import ConfigError
from dynamic_routing.modeling.losses import build_routing_losses
from tests.engine.divdr_training import DIVDR, IMAGES, short_config, short_training
from tests.modeling.builders import PLAIN, batch, small_config, small_model

DIM = 6
STUCK = timedelta(seconds=90)
"""A process that waits so long for the other waits in vain."""


class Steps:
    """The hook alone, with a source of made-up routes."""

    def __init__(self, snapshots, *, period=1, start=0, bank=None, start_iter=0, **options):
        self.loss = DivDRLoss(2, DIM, weight=1.0, margin=1.0)
        self.snapshots, self.bank, self.collected = snapshots, bank, []
        schedule = ClusteringSchedule(period, start=start)
        self.hook = GateKMeansHook(self.loss, self, schedule=schedule, **options)
        self.storage = EventStorage(0)
        self.hook.trainer = SimpleNamespace(
            iter=0, start_iter=start_iter, max_iter=20, storage=self.storage
        )

    def collect(self, iteration):
        self.collected.append(iteration)
        return self.snapshots(iteration)

    def run(self, iterations):
        self.hook.before_train()
        for i in range(iterations):
            self.hook.trainer.iter = self.storage.iter = i
            self.hook.before_step()
            self.hook.after_step()
        self.hook.after_train()
        return self

    def logged(self, name):
        return self.storage.latest()[f"divdr/{name}"][0]


def snapshot(rows, stamp=0):
    rows = np.asarray(rows, dtype=np.float32)
    return Snapshot(tuple(map(str, range(len(rows)))), rows, np.full(len(rows), stamp))


def two_groups(iteration=0, images=10):
    """Rows around 0 and 1, moving a little."""
    generator = np.random.default_rng(iteration)
    level = np.arange(images)[:, None] % 2 + 0.01 * iteration
    return snapshot(level + 0.02 * generator.standard_normal((images, DIM)), iteration)


def test_hook_clusters_from_its_start_on_every_period():
    steps = Steps(two_groups, period=4, start=3).run(15)
    assert steps.collected == [3, 7, 11]
    expected = cluster(two_groups(3).activations, 2)
    for iteration in (7, 11):
        rows = two_groups(iteration).activations
        expected = cluster(rows, 2, initial_centres=expected.centres)
    assert torch.equal(steps.loss.centres, torch.from_numpy(expected.centres))
    assert float(steps.loss.variance) == pytest.approx(expected.variance)


def test_hook_passes_its_seed_on():
    rows = np.random.default_rng(0).random((40, DIM))  # no clusters: the start decides
    found = {}
    for seed in range(4):
        steps = Steps(lambda i: snapshot(rows), seed=seed).run(1)
        expected = cluster(rows.astype(np.float32), 2, seed=seed).centres
        assert torch.equal(steps.loss.centres, torch.from_numpy(expected))
        found[expected.tobytes()] = seed
    assert len(found) > 1


def test_hook_waits_for_as_many_images_as_clusters():
    def growing(iteration):
        return snapshot(np.eye(6, DIM)[: max(0, iteration - 3)])

    steps = Steps(growing, period=3).run(5)
    assert not steps.loss.ready and steps.collected == [0, 1, 2, 3, 4]
    assert "divdr/inter" not in steps.storage.latest()
    steps = Steps(growing, period=3).run(9)
    assert steps.loss.ready and steps.collected == [0, 1, 2, 3, 4, 5, 8]


def test_hook_logs_what_the_clusters_are_like():
    steps = Steps(lambda i: two_groups(i - i % 5), period=5).run(8)
    assert steps.logged("inter") == pytest.approx(DIM**0.5, rel=0.05)
    assert 0 < steps.logged("intra_center") < steps.logged("intra_pair") < 0.2
    assert steps.logged("silhouette") > 0.9
    assert steps.logged("share_0") == steps.logged("share_1") == 0.5
    assert steps.logged("images") == steps.logged("distinct_routes") == 10
    assert steps.logged("active") == 1 and steps.logged("collapsed") == 0
    assert 0 < steps.logged("kmeans_seconds") and 0 < steps.logged("time_share") <= 1
    assert steps.logged("age_mean") == 0 and steps.logged("reseeded") == 0
    assert 0 < steps.logged("variance") < 0.01


def test_collapse_is_logged_and_warned_of_once(caplog):
    with caplog.at_level(logging.WARNING, logger="dynamic_routing"):
        steps = Steps(lambda i: snapshot(np.ones((9, DIM)), i)).run(5)
    assert steps.logged("collapsed") == 1 and steps.loss.centres.isfinite().all()
    (record,) = caplog.records
    assert "iteration 0: routes have collapsed: 9 images take 1" in record.getMessage()


def test_resumed_training_does_not_warn_of_the_same_collapse_again(caplog):
    def collapsed(iteration):
        return snapshot(np.ones((9, DIM)), iteration)

    state = Steps(collapsed).run(2).hook.state_dict()
    steps = Steps(collapsed, start_iter=2)
    steps.hook.load_state_dict(state)
    caplog.clear()
    assert steps.run(4).collected == [2, 3] and not caplog.records


@pytest.mark.parametrize("reseed", [True, False])
def test_cluster_that_empties_is_logged_and_started_anew_if_wished(caplog, reseed):
    def moving(iteration):
        rows = np.zeros((9, DIM)) if iteration else np.eye(9, DIM)
        rows[:4, 0] += 5 if not iteration else 0
        rows[:, 1] += 0.1 * np.arange(9)
        return snapshot(rows, iteration)

    with caplog.at_level(logging.INFO, logger="dynamic_routing"):
        steps = Steps(moving, reseed=reseed).run(2)
    said = "started anew" if reseed else "left as they are"
    assert f"were empty or equal to another: {said}" in caplog.text
    assert steps.logged("reseeded") == reseed
    assert (0.0 in (steps.logged("share_0"), steps.logged("share_1"))) != reseed


def test_banks_are_merged_before_every_checkpoint_and_at_the_end():
    merged = []
    bank = SimpleNamespace(synchronise=lambda gather: merged.append(steps.hook.trainer.iter))
    steps = Steps(two_groups, start=20, bank=bank, checkpoint_period=6)
    steps.run(20)
    assert merged == [5, 11, 17, 19] and not steps.collected


def test_new_training_forgets_clusters_of_loaded_weights_and_a_resumed_one_does_not():
    for start_iter in (0, 5):
        steps = Steps(two_groups, start=19, start_iter=start_iter)
        steps.loss.set_clusters(torch.rand(2, DIM), 1.0)
        steps.run(2)
        assert bool(steps.loss.ready) == (start_iter > 0)


def test_bank_is_filled_by_training_steps_of_the_model_itself_only(tmp_path):
    trainer = short_training(tmp_path, f"{DIVDR}START_ITER", "11")
    bank = trainer.hook._source.bank
    assert len(bank) == IMAGES and trainer.loss.sink is None
    trainer.hook.before_train()
    trainer.iter = 30
    model = trainer.model.train()
    images, before = batch((32, 32), (32, 32), seed=5), bank.snapshot().names
    with EventStorage(0), torch.no_grad():
        model(images)  # as for the statistics of the norms
    with EventStorage(0):
        copy.deepcopy(model)(images)
    model.eval()(images)
    assert bank.snapshot().names == before
    with EventStorage(0):
        model.train()(images)
    assert len(bank) == IMAGES + 2 and bank.snapshot().stamps.max() == 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nothing interrupted."""
    return short_training(tmp_path_factory.mktemp("whole"))


def test_loss_starts_with_the_first_clustering(whole):
    assert whole.losses[:2] == [0, 0] and min(whole.losses[2:5]) > 0
    # Images are seen at iterations 10 and 11, or 9 and 8; the last clustering was before 11.
    stamps = whole.hook._source.bank.snapshot().stamps
    assert sorted(stamps.tolist()) == [10] * 4 + [11] * 4
    assert whole.storage.latest()["divdr/age_mean"] == (1.5, 11)


def test_killed_and_resumed_training_continues_bit_by_bit(whole, tmp_path):
    short_training(tmp_path, killed_at=8)
    resumed = short_training(tmp_path, resume=True)
    # It resumes where a clustering is due: only a bank that was stored has anything to cluster.
    assert resumed.start_iter == 5 and resumed.losses == whole.losses[5:]
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert "routing_losses.0.centres" in expected
    banks = [t.hook._source.bank.snapshot() for t in (whole, resumed)]
    assert banks[0].names == banks[1].names
    assert np.array_equal(banks[0].activations, banks[1].activations)
    assert np.array_equal(banks[0].stamps, banks[1].stamps)


def test_new_training_takes_weights_of_another_number_of_clusters(whole, tmp_path):
    weights = ("MODEL.WEIGHTS", f"{whole.cfg.OUTPUT_DIR}/model_final.pth")
    three = short_training(tmp_path, *weights, f"{DIVDR}NUM_CLUSTERS", "3", killed_at=3)
    assert three.loss.centres.shape[0] == 3 and three.losses[:2] == [0, 0]


def _two_processes(rank, folder):
    """One of two processes with every other image of each batch."""
    torch.set_num_threads(1)  # before any operation: a forked child must not start OpenMP threads
    store = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=2, timeout=STUCK
    )
    comm.create_local_process_group(2)
    warnings.simplefilter("ignore")  # Detectron2's call of DistributedDataParallel
    trainer = short_training(folder)
    kept = trainer.hook._source.bank.snapshot()
    torch.save(
        {
            "losses": trainer.losses,
            "centres": trainer.loss.centres,
            "variance": trainer.loss.variance,
            "names": list(kept.names),
            "activations": torch.from_numpy(kept.activations),
            "stamps": kept.stamps.tolist(),
        },
        folder / f"{rank}.pth",
    )
    torch.distributed.destroy_process_group()


def test_two_processes_cluster_as_one(whole, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork beside threads
        torch.multiprocessing.start_processes(
            _two_processes, args=(tmp_path,), nprocs=2, start_method="fork"
        )
    first, second = (torch.load(tmp_path / f"{r}.pth", weights_only=True) for r in range(2))
    for name in ("centres", "variance", "activations"):
        assert torch.equal(first[name], second[name])
    assert first["names"] == second["names"] and first["stamps"] == second["stamps"]
    kept = whole.hook._source.bank.snapshot()
    assert first["names"] == list(kept.names) and first["stamps"] == kept.stamps.tolist()
    assert np.allclose(first["activations"].numpy(), kept.activations, atol=1e-4)
    assert torch.allclose(first["centres"], whole.loss.centres, atol=1e-4)
    assert first["losses"] == pytest.approx(whole.losses, rel=1e-3)
    stored = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert torch.equal(stored["model"]["routing_losses.0.centres"], first["centres"])
    bank = stored["trainer"]["hooks"]["GateKMeansHook"]["bank"]
    assert bank["stamps"].tolist() == first["stamps"]
    assert torch.equal(bank["activations"], first["activations"])
    halfway = torch.load(tmp_path / "model_0000004.pth", weights_only=True)
    stamps = halfway["trainer"]["hooks"]["GateKMeansHook"]["bank"]["stamps"]
    assert sorted(stamps.tolist()) == [3] * 4 + [4] * 4  # of both processes


# Building ----------------------------------------------------------------------------------------


def test_no_clusters_no_hook():
    assert build_kmeans_hook(small_config(), small_model()) is None


def test_hook_follows_the_config(tmp_path):
    options = ("PERIOD_FINAL", "9", "MAX_IMAGES", "77", "SEED", "5", "RESEED", "False")
    cfg = short_config(tmp_path, *(f"{DIVDR}{o}" if o.isupper() else o for o in options))
    hook = build_kmeans_hook(cfg, small_model(*_clusters()))
    assert isinstance(hook._source, BankSource) and isinstance(hook._source.bank, GateBank)
    assert hook._source.bank.max_images == 77
    assert hook._schedule == ClusteringSchedule(3, 9, 2)
    assert (hook._seed, hook._reseed, hook._checkpoint_period) == (5, False, 5)


def _clusters(count=2):
    return (f"{DIVDR}NUM_CLUSTERS", str(count))


def test_clusters_that_the_model_would_ignore_are_refused(tmp_path):
    cfg = short_config(tmp_path)
    cfg.MODEL.META_ARCHITECTURE = PLAIN[1]
    with pytest.raises(ValueError, match="SemanticSegmentor has no losses on routes: set DIVDR"):
        build_kmeans_hook(cfg, small_model(*PLAIN))
    with pytest.raises(ValueError, match="needs gates that depend on the image; .* is fixed"):
        small_model(*_clusters(), "MODEL.DYNAMIC_ROUTING.GATE.ACTIVATION", "fixed")


def test_loss_follows_the_config_and_comes_before_the_budget():
    budget = ("MODEL.DYNAMIC_ROUTING.BUDGET.LAMBDA", "0.5")
    options = (f"{DIVDR}WEIGHT", "0.3", f"{DIVDR}MARGIN", "2", f"{DIVDR}NORM_POWER", "2")
    loss, other = small_model(*_clusters(3), *options, *budget).routing_losses
    assert isinstance(loss, DivDRLoss) and not isinstance(other, DivDRLoss)
    assert (loss.weight, loss.margin, loss.norm_power) == (0.3, 2.0, 2)
    assert loss.centres.shape == (3, small_model().backbone.network.space.activation_dim)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (_clusters(1), "NUM_CLUSTERS must be 0 .off. or at least 2, got 1 .one cluster is the tri"),
        (_clusters(-2), "at least 2, got -2"),
        ((f"{DIVDR}WEIGHT", "-1"), "WEIGHT must be at least 0, got -1"),
        ((f"{DIVDR}MARGIN", "-1"), "MARGIN must be at least 0, got -1"),
        ((f"{DIVDR}NORM_POWER", "3"), r"NORM_POWER must be one of \(1, 2\), got 3"),
        ((f"{DIVDR}SOURCE", "disk"), "SOURCE 'disk' is unknown; allowed: bank, subset, full"),
        ((f"{DIVDR}PERIOD", "0"), "PERIOD must be at least 1, got 0"),
        ((f"{DIVDR}PERIOD_FINAL", "10"), "PERIOD_FINAL must be 0 or at least PERIOD, got 10"),
        ((*_clusters(4), f"{DIVDR}SUBSET_SIZE", "3"), "SUBSET_SIZE must be at least 4, got 3"),
        ((f"{DIVDR}MAX_IMAGES", "0"), "MAX_IMAGES must be at least 1, got 0"),
        ((f"{DIVDR}MARGIN", "1e400"), "MARGIN must be finite, got inf"),
        ((f"{DIVDR}SEED", "-1"), r"SEED must be in \[0, 4294967295\], got -1"),
        ((f"{DIVDR}START_ITER", "-1"), "START_ITER must be at least 0, got -1"),
        (
            (*_clusters(), f"{DIVDR}START_ITER", "9", "SOLVER.MAX_ITER", "9"),
            "START_ITER 9 must lie before SOLVER.MAX_ITER 9",
        ),
    ],
)
def test_impossible_config_is_one_line(overrides, said):
    with pytest.raises(ConfigError, match=said) as info:
        small_config(*overrides)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("MAX_IMAGES", "7"), "DATASETS.TRAIN has 8 images, .* at most 7: raise DIVDR.MAX_IMAGES"),
        (("NUM_CLUSTERS", "9"), "NUM_CLUSTERS 9 needs at least as many .*, DATASETS.TRAIN has 8"),
        (("NUM_CLUSTERS", "9", "SOURCE", "full"), "DATASETS.TRAIN has 8"),
    ],
)
def test_training_images_that_cannot_be_clustered_are_refused(overrides, said, tmp_path):
    keys = [f"{DIVDR}{word}" if i % 2 == 0 else word for i, word in enumerate(overrides)]
    with pytest.raises(ValueError, match=said):
        check_images(short_config(tmp_path, *keys), IMAGES)


def test_as_many_images_as_clusters_and_as_the_bank_keeps_are_enough(tmp_path):
    check_images(short_config(tmp_path, *_clusters(8), f"{DIVDR}MAX_IMAGES", "8"), IMAGES)
    for free in ((f"{DIVDR}SOURCE", "full", f"{DIVDR}MAX_IMAGES", "2"), _clusters(0)):
        check_images(short_config(tmp_path, *free), IMAGES)
    check_images(short_config(tmp_path, *_clusters(9)), None)


def test_weights_of_a_network_without_clusters_start_one_with_clusters(tmp_path):
    plain = small_model()
    torch.save({"model": plain.state_dict()}, tmp_path / "plain.pth")
    weights = ("MODEL.WEIGHTS", str(tmp_path / "plain.pth"), "MODEL.DYNAMIC_ROUTING.NORM", "BN")
    norm = ("MODEL.SEM_SEG_HEAD.NORM", "BN")
    trainer = short_training(tmp_path / "run", *weights, *norm, killed_at=1)
    assert trainer.start_iter == 0 and len(trainer.losses) == 1


def test_losses_of_a_config_without_clusters_are_as_before():
    cfg = small_config()
    assert isinstance(cfg, CfgNode) and isinstance(small_model(), nn.Module)
    assert build_routing_losses(cfg, small_model().backbone.network) == []
