"""The toy study's questions: which settings each one compares, and on which seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dynamic_routing.studies.settings import Setting

DEVELOPMENT_SEEDS = (*range(8), *range(20, 44))
"""Every free choice was made on these."""

FRESH_SEEDS = tuple(range(100, 116))
"""The headline; run once, after all choices."""

QUESTION_SEEDS = tuple(range(200, 232))
"""Every other question; no choice was made on them either."""

DR = Setting(method="dr")
DIVDR = Setting(start=150, weight=1.0, margin=3.0)
"""The chosen setting: on the development seeds it recovered 32 of 32 (question "development")."""

FIRST_GUESS = Setting(start=300, weight=0.3, margin=1.0)
"""Where the choosing began: our pilots' warm-up, and lambda_2 within the paper's harmless range."""


@dataclass(frozen=True)
class Variant:
    """A setting by name."""

    label: str
    setting: Setting


@dataclass(frozen=True)
class Question:
    """Settings to hold against one another.

    Attributes:
        title: the question, in words.
        variants: what to run.
        reference: label of the variant that the others are compared with.
        seeds: each variant runs with all of them.
    """

    title: str
    variants: tuple[Variant, ...]
    reference: str
    seeds: tuple[int, ...] = QUESTION_SEEDS


def _vary(
    base: Setting, name: str, *values: float | int | str, prefix: str = ""
) -> tuple[Variant, ...]:
    """The base with other values of one field."""
    return tuple(
        Variant(f"{prefix}{name} {v}", replace(base, **{name: v}))  # type: ignore[arg-type]
        for v in values
    )


def _development() -> Question:
    """Everything that was tried before the choice was made, in the order in which it was tried."""
    first = FIRST_GUESS
    early = replace(first, start=200)
    strong = DIVDR
    return Question(
        "which setting is DivDR's? (development seeds)",
        (
            Variant("DR", DR),
            Variant("oracle", Setting(method="oracle")),
            Variant("start 300, lambda_2 0.3, margin 1", first),
            *_vary(first, "weight", 0.5, 1.0),
            *_vary(first, "start", 50, 150, 200),
            *_vary(first, "margin", 0.0, 3.0),
            *_vary(first, "norm_power", 2),
            *_vary(early, "weight", 1.0, prefix="start 200, "),
            Variant("strong", strong),
            *_vary(strong, "start", 100, 200, 250, 300, prefix="lambda_2 1, margin 3, "),
        ),
        reference="DR",
        seeds=DEVELOPMENT_SEEDS,
    )


def _fresh() -> Question:
    """The headline."""
    return Question(
        "the chosen setting on seeds that nothing was chosen on",
        (
            Variant("static", Setting(method="static")),
            Variant("oracle", Setting(method="oracle")),
            Variant("DR", DR),
            Variant("DivDR", DIVDR),
        ),
        reference="DR",
        seeds=FRESH_SEEDS,
    )


def _budget() -> Question:
    """DivDR-A: does a budget bring the cost down to the oracle's, a third of the gates?"""

    def budgeted(base: Setting, mu: float) -> Setting:
        """A strong budget loss from the first iteration on."""
        return replace(base, budget_weight=3.0, budget_start=0.0, budget_mu=mu)

    return Question(
        "the oracle's cost at the oracle's accuracy?",
        (
            Variant("oracle", Setting(method="oracle")),
            Variant("DivDR", DIVDR),
            *(Variant(f"DivDR-A, mu {mu}", budgeted(DIVDR, mu)) for mu in (0.2, 0.3)),
            Variant("DR-A, mu 0.3", budgeted(DR, 0.3)),
        ),
        reference="oracle",
    )


def _about(title: str, *variants: Variant) -> Question:
    """A question that varies the chosen setting, beside DR."""
    return Question(
        title, (Variant("DR", DR), Variant("DivDR", DIVDR), *variants), reference="DivDR"
    )


QUESTIONS: dict[str, Question] = {
    "fresh": _fresh(),
    "development": _development(),
    "clusters": _about("K", *_vary(DIVDR, "clusters", 2, 4, 5)),
    "margin": _about("margin", *_vary(DIVDR, "margin", 0.0, 1.0, 6.0)),
    "weight": _about("lambda_2", *_vary(DIVDR, "weight", 0.1, 0.3, 3.0)),
    "period": _about("period of the clustering", *_vary(DIVDR, "period", 10, 100, 200, 400)),
    "annealing": _about("a longer period late", *_vary(DIVDR, "final_period", 100, 200)),
    "warmup": _about("warm-up", *_vary(DIVDR, "start", 0, 50, 300, 600)),
    "source": _about("source of the activations", *_vary(DIVDR, "source", "subset", "full")),
    "norm": _about("printed or squared norm", *_vary(DIVDR, "norm_power", 2)),
    "budget": _budget(),
}
