"""Small generated trees, and Detectron2's catalogues put back after each test that changes them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamic_routing.data.cityscapes import generate_cityscapes
from dynamic_routing.data.voc import generate_voc


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small Cityscapes and VOC trees; tests must not change it."""
    folder = tmp_path_factory.mktemp("datasets")
    counts = {"train": 3, "val": 3}
    generate_cityscapes(folder, counts=counts, size=(64, 128), seed=1)
    generate_voc(folder, counts=counts, size=(96, 128), seed=1)
    return folder


@pytest.fixture
def catalogues(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a test register what it wants."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    saved = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield
    DatasetCatalog.data, MetadataCatalog.data = saved


@pytest.fixture
def registered(root: Path, catalogues: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small trees, registered under DETECTRON2_DATASETS."""
    from dynamic_routing.data.catalog import register_datasets

    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    register_datasets()
    return root
