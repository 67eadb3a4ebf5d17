"""Names of runs, files and classes in figures: shown as they are, never read as formulas."""

from __future__ import annotations

from matplotlib.legend import Legend


def plain_legend(legend: Legend) -> None:
    """Let a dollar sign in a legend be a dollar sign; matplotlib refuses half a formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)
