"""What every test shares: a fixed seed, property tests that repeat exactly, one thread."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the networks of the tests are too small to share
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
