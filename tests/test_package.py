"""What importing the package costs and offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dynamic_routing
from tests.modeling.builders import REPOSITORY


@pytest.mark.slow
def test_importing_the_package_and_its_core_imports_no_detectron2():
    code = (
        "import sys, dynamic_routing; assert 'torch' not in sys.modules, 'torch'; "
        "dynamic_routing.RoutingSpace; import dynamic_routing.routing.cost, "
        "dynamic_routing.routing.budget, dynamic_routing.routing.decoder; "
        "print([m for m in sys.modules if m.split('.')[0] in ('detectron2', 'fvcore', 'yacs')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", dynamic_routing.__all__)
def test_every_public_name_exists(name):
    assert getattr(dynamic_routing, name) is not None


def test_lazy_names_are_those_of_their_modules():
    from dynamic_routing import RoutingNetwork, get_config
    from dynamic_routing.modeling import config
    from dynamic_routing.routing import network

    assert get_config is config.get_config and RoutingNetwork is network.RoutingNetwork


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'dynamic_routing' has no attribute 'nonsense'"):
        _ = dynamic_routing.nonsense
    assert not hasattr(dynamic_routing, "nonsense")
