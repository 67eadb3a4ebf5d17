"""Every work-around for Detectron2 and the libraries under it: one function, one test each.

Nothing is patched on disk. What has to be replaced in a library is replaced inside a ``with`` and
put back afterwards. Each docstring names the symptom and its cause, so that a work-around can be
dropped once upstream is fixed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike
from PIL import Image
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from detectron2.utils.events import EventStorage

CITYSCAPES_EVALUATION_MODULES = (
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
    "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",
)
"""The two scripts that Detectron2's Cityscapes evaluators call."""


INDEX_MODES = ("L", "P", "1", "I", "I;16", "I;16B")
"""Pillow's modes of one channel."""


def load_label_image(path: str, dtype: DTypeLike | None = None) -> np.ndarray:
    """Read a label image as a writable array; a ``sem_seg_loading_fn`` for SemSegEvaluator.

    Symptom: ``ValueError: Unable to avoid copy`` in ``SemSegEvaluator.process``.
    Cause: its loader calls ``np.array(image, copy=False)``, which numpy 2 refuses when a copy is
    needed. The evaluator then writes into the array, so ``np.asarray`` would not do either.

    Args:
        path: a greyscale or palette PNG. A palette image gives its indices, not its colours.
        dtype: of the result; None keeps the file's own.

    Returns:
        (H, W), one label a pixel.

    Raises:
        ValueError: a colour image, or a value that the type cannot hold, naming the file.
    """
    with Image.open(path) as image:
        if image.mode not in INDEX_MODES:
            raise ValueError(
                f"label image {path} must hold one class index a pixel (grey or palette), "
                f"but its mode is {image.mode}"
            )
        labels = np.array(image)
    result = labels.astype(labels.dtype if dtype is None else dtype)
    if not np.array_equal(result, labels):
        raise ValueError(
            f"label image {path} holds {labels.max()}, which {np.dtype(dtype)} cannot hold"
        )
    return result


LOST_PEER = ("Connection closed by peer", "Connection reset by peer")
"""What gloo says in a process whose peer has ended."""


class OneLineErrors(logging.Filter):
    """For Detectron2's training loop: it logs a traceback for every error, ours need one line.

    Symptom: a broken image or a NaN prints a page of traceback before the program's own message.
    Cause: ``detectron2.engine.train_loop`` logs and raises again. An error that the caller reports
    (ValueError, OSError) loses its traceback here, and so does that of a process that lost another
    one, which is what has to be reported; everything else keeps it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without the traceback of a user's error."""
        error = record.exc_info[1] if record.exc_info else None
        lost = isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_PEER)
        if lost or isinstance(error, ValueError | OSError):
            record.exc_info = None
        return True


KEPT_VALUES = 200
"""Values of each scalar that a training keeps in memory; the writers look at 20."""


def bound_history(storage: EventStorage) -> None:
    """Let an EventStorage keep the last values of each scalar, not a million.

    Symptom: memory grows by some KB an iteration, half a GB over a long schedule.
    Cause: ``EventStorage`` makes each ``HistoryBuffer`` with its default length of 1,000,000.
    Smoothed values look at the last 20, and the average over everything is kept as such.

    Args:
        storage: new, or with some scalars already; these stay as they are.
    """
    from fvcore.common.history_buffer import HistoryBuffer

    storage._history.default_factory = partial(HistoryBuffer, max_length=KEPT_VALUES)


class _NumpyProxy:
    """numpy as cityscapesscripts expects it; see :func:`cityscapes_numpy_proxy`."""

    @staticmethod
    def in1d(values: np.ndarray, test: Any, **options: Any) -> np.ndarray:
        """``np.isin`` with the flat result of the function that numpy 2.4 removed."""
        return np.isin(values, test, **options).ravel()

    @staticmethod
    def count_nonzero(values: np.ndarray) -> int:
        """A Python int, which ``json`` can write; numpy 2.3 and later return ``np.intp``."""
        return int(np.count_nonzero(values))

    @staticmethod
    def cumsum(values: np.ndarray) -> np.ndarray:
        """``np.cumsum``; of nothing it is a single 0.

        A class whose predictions are all on ignored pixels else ends in ``IndexError: index -1 is
        out of bounds``, since the script takes the last sum. What follows a 0 gives AP 0, which is
        right: there is an object, and nothing found it.
        """
        return np.cumsum(values) if len(values) else np.zeros(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _write_nothing(content: object, path: str) -> None:
    """Takes the place of ``writeDict2JSON``."""


@contextmanager
def cityscapes_numpy_proxy() -> Iterator[None]:
    """Let the Cityscapes evaluation scripts (cityscapesscripts 2.3.0) run on today's numpy.

    Symptoms: ``module 'numpy' has no attribute 'in1d'`` (numpy >= 2.4); ``'numpy.int64' object has
    no attribute '__dict__'`` (numpy >= 2.3); a ``matches.json`` in the working directory.
    Causes: the scripts call a removed function, write numpy integers as JSON, and always write
    that file. Inside the ``with`` their two modules see a proxy of numpy, and ``writeDict2JSON``
    does nothing. Scores equal those of the untouched scripts on numpy 1.26.

    Raises:
        ImportError: cityscapesscripts is not installed.
    """
    replacements = {"np": _NumpyProxy(), "writeDict2JSON": _write_nothing}
    with ExitStack() as put_back:
        for module in [import_module(name) for name in CITYSCAPES_EVALUATION_MODULES]:
            for name, replacement in replacements.items():
                put_back.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, replacement)
        yield


def unsynchronised_buffers() -> dict[str, bool]:
    """Arguments of DistributedDataParallel that leave buffers alone between two forwards.

    Symptom: ``FutureWarning: broadcast_buffers is deprecated``.
    Cause: torch 2.13 calls it ``forward_sync_buffers`` (buffers are then still made equal once, at
    the start, which is harmless here); torch 2.11 and 2.12 do not know that name.
    """
    new = "forward_sync_buffers"
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {new if new in known else "broadcast_buffers": False}
