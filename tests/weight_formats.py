"""The formats of weight files, as parameters of tests."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_safetensors = pytest.mark.skipif(
    find_spec("safetensors") is None, reason="the package safetensors is not installed"
)
SUFFIXES = (".pth", pytest.param(".safetensors", marks=needs_safetensors))
