"""Arena Score: the paper's Eq. 9 with the paper's task sets, and the forms that may be compared.

Eq. 9 averages over the tasks a model has results for, so two models can be averaged over different tasks and
still stand in one ranking: the published public bars mix five and six tasks (evaluation.md B7). Here only
`arena_common` ranks, and every result names the tasks it used and the ones it lacks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from surgr1.ontology.errors import SurgR1Error

ArenaGroup = Literal["public", "external"]

# Card id -> the metric that reproduces the published Arena Scores (evaluation.md B7): the text says "Triplet
# Accuracy" and a joint "Overall Accuracy", but Renji's triplets entered as mAP and CVS as pooled accuracy.
PAPER_TASKS: Mapping[ArenaGroup, Mapping[str, str]] = {
    "public": {
        "cholect50-triplet": "accuracy",
        "cholec80-phase": "accuracy",
        "sar-rarp50-action": "accuracy",
        "multibypass140-phase": "accuracy",
    },
    "external": {
        "renji-triplet": "map",
        "renji-phase": "accuracy",
        "strasbourg-phase": "accuracy",
        "cuhk-action": "accuracy",
        "west-china-cvs": "pooled",
        "nanfang-cvs": "pooled",
    },
}


class ArenaError(SurgR1Error):
    """No Arena Score can be computed from what was given."""


@dataclass(frozen=True)
class PaperArena:
    """Eq. 9 in the paper's reading. `tasks` were averaged, `missing` belong to the group and had no result.

    `renji_triplet_acc` is the same mean with Renji's exact-set accuracy in place of its mAP, the definition
    in the paper's text; None where that accuracy or the task is absent (public group, published rows).
    """

    group: ArenaGroup
    value: float
    tasks: tuple[str, ...]
    missing: tuple[str, ...]
    renji_triplet_acc: float | None


@dataclass(frozen=True)
class CommonArena:
    """Eq. 9 over the tasks that every compared model has: the only form that may rank.

    `left_out` lists, per model, the tasks it has but some other model lacks.
    """

    scores: Mapping[str, float]
    tasks: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]


def arena(scores: Mapping[str, float]) -> float:
    """Eq. 9: the arithmetic mean over the tasks a model has results for, in percent."""
    if not scores:
        raise ArenaError("an Arena Score needs at least one task, none was given")
    return sum(scores.values()) / len(scores)


def arena_paper(scores: Mapping[str, Mapping[str, float]], group: ArenaGroup) -> PaperArena:
    """Eq. 9 over the paper's tasks of `group`. `scores` maps card ids to {metric: percent}; cards of no
    interest to the paper's Arena are passed over, absent ones are listed in `missing`.
    """
    wanted = PAPER_TASKS[group]
    have = {c: scores[c][m] for c, m in wanted.items() if c in scores and m in scores[c]}
    if not have:
        raise ArenaError(f"none of the {group} tasks has a result; expected some of {', '.join(wanted)}")
    by_text = None
    accuracy = scores.get("renji-triplet", {}).get("accuracy")
    if "renji-triplet" in have and accuracy is not None:
        by_text = arena(have | {"renji-triplet": accuracy})
    return PaperArena(group, arena(have), tuple(have), tuple(c for c in wanted if c not in have), by_text)


def arena_common(models: Mapping[str, Mapping[str, float]]) -> CommonArena:
    """`models` maps names to {task: percent}; ArenaError when the models share no task."""
    if not models:
        raise ArenaError("a comparison needs at least one model, none was given")
    common = tuple(sorted(set.intersection(*(set(s) for s in models.values()))))
    if not common:
        raise ArenaError(f"{', '.join(models)} share no task, so they cannot be ranked by an Arena Score")
    return CommonArena(
        scores={m: arena({t: s[t] for t in common}) for m, s in models.items()},
        tasks=common,
        left_out={m: tuple(sorted(set(s) - set(common))) for m, s in models.items()},
    )


def lift(score: float, floor: float) -> float:
    """(score - floor) / (100 - floor), both in percent: the share of what a constant answer leaves to win."""
    return (score - floor) / (100 - floor) if floor < 100 else 0.0


def arena_lift(scores: Mapping[str, float], floors: Mapping[str, float]) -> float:
    """Mean lift over the tasks of `scores`; the floor is the majority class for accuracy, the prevalence for
    mAP (evaluation.md B7).
    """
    without = sorted(set(scores) - set(floors))
    if without or not scores:
        raise ArenaError(f"the lift needs tasks and a floor for each; no floor for: {', '.join(without)}")
    return sum(lift(scores[t], floors[t]) for t in scores) / len(scores)


def win_rates(models: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """model -> rival -> share of the tasks both have on which the model scores higher; a tie counts half to
    each. A pair without a shared task has no entry.
    """
    rates: dict[str, dict[str, float]] = {m: {} for m in models}
    for model, mine in models.items():
        for rival, theirs in models.items():
            shared = [t for t in mine if t in theirs]
            if rival != model and shared:
                wins = sum(
                    1.0 if mine[t] > theirs[t] else 0.5 if mine[t] == theirs[t] else 0.0 for t in shared
                )
                rates[model][rival] = wins / len(shared)
    return rates
