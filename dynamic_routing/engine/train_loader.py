"""The loader of training batches, whose content is a function of seed, iteration and process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.data.build import trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from dynamic_routing.data.order import Sample, SampleOrder, aspect_groups, part_of
from dynamic_routing.engine.randomness import ORDER, SAMPLES, mixed_seed, seeded
from dynamic_routing.engine.workers import with_quick_workers

Batch = list[dict[str, Any]]
Mapper = Callable[[dict[str, Any]], dict[str, Any]]

PLAIN, BY_RAREST_CLASS = "TrainingSampler", "RepeatFactorTrainingSampler"
SAMPLERS = (PLAIN, BY_RAREST_CLASS)
"""Values of DATALOADER.SAMPLER_TRAIN for which Detectron2 has all keys."""

logger = logging.getLogger(__name__)


class SeededDataset(Dataset):
    """Images whose augmentation depends on the place in the training only.

    Not on the worker that makes it, nor on how many there are, nor on a resume.

    Args:
        records: data set dicts, possibly of a class that keeps them packed.
        mapper: makes the model's input of one; draws from the global generators.
        seed: of the run.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]] | Dataset, *, mapper: Mapper, seed: int
    ) -> None:
        self._records = records
        self._mapper = mapper
        self._seed = seed

    def __getitem__(self, sample: Sample) -> dict[str, Any]:
        """One augmented image."""
        with seeded(mixed_seed(self._seed, SAMPLES, sample.number)):
            return self._mapper(self._records[sample.image])


class PartialBatches(Sampler[list[Sample]]):
    """What this process takes of each batch of the job.

    Args:
        order: of the samples.
        seed: of the run.
        batch_size: images of all processes together.
        start: number of the first batch.
    """

    def __init__(self, order: SampleOrder, *, seed: int, batch_size: int, start: int) -> None:
        self._order = order
        self._seed = mixed_seed(seed, ORDER)
        self._batch_size = batch_size
        self._start = start

    def __iter__(self) -> Iterator[list[Sample]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        batches = self._order.batches(self._seed, batch_size=self._batch_size, start=self._start)
        for batch in batches:
            yield part_of(batch, rank=rank, world_size=world_size)


class TrainLoader:
    """Endless batches that can start anywhere; see :mod:`dynamic_routing.data.order`.

    Workers start with the first batch, so seed and start can be set until then.

    Args:
        records: data set dicts.
        mapper: makes the model's input of one.
        order: of the samples.
        batch_size: images of all processes together; each gets an equal part.
        num_workers: processes that load images; 0: this one.
        seed: of the run.

    Raises:
        ValueError: the batch cannot be split over the processes.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        *,
        mapper: Mapper,
        order: SampleOrder,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or batch_size % comm.get_world_size():
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH {batch_size} cannot be split over "
                f"{comm.get_world_size()} processes"
            )
        self.dataset = DatasetFromList(list(records), copy=False)
        self._mapper = mapper
        self._order = order
        self._batch_size = batch_size
        self._num_workers = num_workers
        self.seed = seed
        self.start = 0

    def __iter__(self) -> Iterator[Batch]:
        """The batches from number ``start`` on."""
        batches = PartialBatches(
            self._order, seed=self.seed, batch_size=self._batch_size, start=self.start
        )
        loader: DataLoader[Batch] = DataLoader(
            SeededDataset(self.dataset, mapper=self._mapper, seed=self.seed),
            batch_sampler=batches,
            num_workers=self._num_workers,
            collate_fn=trivial_batch_collator,
            # Its own, since the loader draws once when it starts: wherever a run is resumed.
            generator=torch.Generator(),
        )
        return iter(with_quick_workers(loader))


def build_order(cfg: CfgNode, records: Sequence[dict[str, Any]]) -> SampleOrder:
    """The order that DATALOADER.SAMPLER_TRAIN and ASPECT_RATIO_GROUPING describe.

    Raises:
        ValueError: an unknown sampler.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in SAMPLERS:
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN {name!r} is unknown; allowed: {', '.join(SAMPLERS)}"
        )
    groups = aspect_groups(records) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    if groups is not None and len(set(groups)) == 1:
        groups = None  # the same batches, found at once
    factors = None
    if name == BY_RAREST_CLASS:
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD
        ).numpy()
    return SampleOrder(len(records), repeat_factors=factors, groups=groups)


def training_records(cfg: CfgNode) -> list[dict[str, Any]]:
    """The data set dicts of DATASETS.TRAIN."""
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    proposals = cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None
    return get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints,
        proposal_files=proposals,
    )


def build_train_loader(cfg: CfgNode, *, mapper: Mapper) -> TrainLoader:
    """The loader that a config describes; seed and start are still to be set."""
    records = training_records(cfg)
    logger.info("%d training images, %s", len(records), cfg.DATALOADER.SAMPLER_TRAIN)
    return TrainLoader(
        records,
        mapper=mapper,
        order=build_order(cfg, records),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=max(cfg.SEED, 0),
    )
