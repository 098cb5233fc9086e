"""Arena Score (paper, Eq. 9) and its two honest companions."""

from collections.abc import Mapping


def arena(scores: Mapping[str, float]) -> float:
    """Eq. 9: the arithmetic mean over the tasks a model has results for, in percent."""
    if not scores:
        raise ValueError("an Arena Score needs at least one task")
    return sum(scores.values()) / len(scores)


def arena_common(models: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Eq. 9 over the tasks that every compared model has: the only form that may rank."""
    common = set.intersection(*(set(s) for s in models.values()))
    return {m: arena({t: s[t] for t in sorted(common)}) for m, s in models.items()}


def lift(score: float, floor: float) -> float:
    """(score - floor) / (100 - floor), both in percent: the share of what a constant answer leaves to win."""
    return (score - floor) / (100 - floor) if floor < 100 else 0.0


def arena_lift(scores: Mapping[str, float], floors: Mapping[str, float]) -> float:
    """Mean lift over the tasks."""
    return sum(lift(scores[t], floors[t]) for t in scores) / len(scores)
