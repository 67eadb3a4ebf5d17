"""Packaging of `dynamic_routing`: `pip install -e .[dev,cityscapes]`.

Ranges stand here; `constraints.txt` holds the exact versions that `./demo.sh` and `./test.sh`
install and that were tested together.

Detectron2 is not listed although the package's Detectron2 side needs it: it is on no package
index, so a requirement on it could never be met by pip. `python tools/install_detectron2.py`
installs it; `dynamic_routing.routing` works without it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def read_version() -> str:
    """The `__version__` of the package, read without importing it (that would need PyTorch)."""
    text = (HERE / "dynamic_routing" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r"^__version__(?::\s*\w+)?\s*=\s*[\"']([^\"']+)[\"']", text, re.MULTILINE)
    if found is None:
        raise ValueError('dynamic_routing/__init__.py holds no line `__version__ = "..."`')
    return found.group(1)


setup(
    name="dynamic_routing",
    version=read_version(),
    description="Dynamic routing networks in PyTorch and Detectron2",
    packages=find_packages(include=["dynamic_routing", "dynamic_routing.*"]),
    package_data={"dynamic_routing": ["py.typed", "routing/subgraphs/*.json"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "numpy>=1.26",
        "Pillow>=9.4",
        "scipy>=1.11.1",
        "scikit-learn>=1.4",
        "threadpoolctl>=3.1",
        "matplotlib>=3.7",
        "fvcore>=0.1.5.post20221221,<0.1.6",
        "pycocotools>=2.0.8",
        "PyYAML>=6.0",
        # Weights in a format that cannot hold code; 0.5 MB, no requirements of its own.
        "safetensors>=0.4",
        "tensorboard>=2.14",
        # cv2 without a display (no libGL). Any of the opencv-python packages serves as well; who
        # has another one installs this package with `--no-deps` so that the two do not overlap.
        "opencv-python-headless>=4.8.0.76",
        # pkg_resources, which Detectron2's model zoo imports, is gone in setuptools 82.
        "setuptools<82",
    ],
    extras_require={
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "pytest-timeout>=2.3.1",
            "coverage[toml]>=7.10",
            "ruff>=0.6",
            "mypy>=1.11",
            "hypothesis>=6.100",
        ],
        # ONNX only; torch.export needs nothing more.
        "export": ["onnx>=1.17", "onnxscript>=0.6", "onnxruntime>=1.20"],
        "cityscapes": ["cityscapesscripts>=2.2.3", "shapely>=2.0"],
    },
)
