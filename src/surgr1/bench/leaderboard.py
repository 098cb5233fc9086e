"""Ranking of several models' scores, for those that may be ranked.

Two scores are comparable when they were made on the same frames, with the same questions, protocol, form of
prompt and vocabulary: when their cards' stamps are equal. Whether levels of reasoning were asked for is part
of the method and no bar. Only such models are ranked, only over the tasks that all of
them have (`arena_common`); the others are listed below with the reason. Published rows stand beside, never in
the ranking: their frame lists and prompts were not released.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgr1.bench import published
from surgr1.bench.arena import (
    PAPER_TASKS,
    ArenaGroup,
    arena,
    arena_common,
    arena_lift,
    arena_paper,
    win_rates,
)
from surgr1.ontology.errors import SurgR1Error

_STAMPS = {
    "frames": "frame list",
    "questions": "questions",
    "protocol": "protocol",
    "form": "form of prompt",
    "vocabulary": "vocabulary",
}


class LeaderboardError(SurgR1Error):
    """The scores given cannot be put on one board."""


@dataclass(frozen=True)
class Cell:
    """A model's primary score on a task, in percent with its 95 % interval (None: not in the scores)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Entry:
    """One model. `rank` is None where it may not be ranked, and `reasons` says why.

    `score` is Eq. 9 over the board's tasks for a ranked model, over its own tasks otherwise; `interval` is
    known only where that is the task set of its scores' own Arena. `left_out` are tasks it has that do not
    count here, `missing` tasks of the group it has no result for.
    """

    name: str
    model: str
    simulated: bool
    rank: int | None
    score: float
    interval: tuple[float, float] | None
    lift: float | None
    tasks: Mapping[str, Cell]
    left_out: tuple[str, ...]
    missing: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class PublishedEntry:
    """A published model beside the board: its scores by card, each with its protocol, and Eq. 9 in the
    paper's reading over the tasks it has.
    """

    model: str
    printed_as: str
    score: float
    scores: Mapping[str, float]
    protocols: Mapping[str, str]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """One Arena group. `ranked` is ordered by rank; `tasks` are those it ranks by; `win_rates` is model ->
    rival -> share of those tasks won.
    """

    group: ArenaGroup
    tasks: tuple[str, ...]
    ranked: tuple[Entry, ...]
    unranked: tuple[Entry, ...]
    win_rates: Mapping[str, Mapping[str, float]]
    published: tuple[PublishedEntry, ...]
    notes: tuple[str, ...]


def leaderboard(models: Sequence[Mapping[str, Any]]) -> tuple[Board, ...]:
    """A board per Arena group that any of the models' `scores.json` contents has results for.

    Ranked is a set of at least two models that agree in the stamps of every task they share and have one in
    common. It is grown from each model in turn in the order given; the largest wins, then the one with more
    tasks in common, then the one found first.
    """
    names = [m["name"] for m in models]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise LeaderboardError(f"{', '.join(twice)}: named twice; give every model on a board its own name")
    groups: tuple[ArenaGroup, ...] = ("public", "external")
    boards = []
    for group in groups:
        cards = {m["name"]: _cards(m, group) for m in models}
        if any(cards.values()):
            boards.append(_board(group, [m for m in models if cards[m["name"]]], cards))
    return tuple(boards)


def _cards(model: Mapping[str, Any], group: ArenaGroup) -> dict[str, Mapping[str, Any]]:
    """The group's cards with a result, by id; LeaderboardError where a card has no complete stamp."""
    found = {}
    for card in model["cards"]:
        if card["group"] != group or card["metrics"][card["primary"]]["value"] is None:
            continue
        lacking = [k for k in _STAMPS if k not in card.get("stamp", {})]
        if lacking:
            raise LeaderboardError(
                f"{model['name']}: card {card['id']} has no stamp for {', '.join(lacking)}; score its "
                "predictions again with this version"
            )
        found[card["id"]] = card
    return found


def _identity(card: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be equal for two scores of a card to be comparable, by the word for it."""
    return {"data set": card["dataset"]} | {word: card["stamp"][key] for key, word in _STAMPS.items()}


def _conflicts(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Why two models may not be ranked together: what differs on the tasks they share."""
    shared = [c for c in mine if c in theirs]
    if not shared:
        return ["other tasks"]
    left, right = ({c: _identity(cards[c]) for c in shared} for cards in (mine, theirs))
    found = []
    for word in ("data set", *_STAMPS.values()):
        differ = [c for c in shared if left[c][word] != right[c][word]]
        if differ:
            found.append(f"other {word} on {', '.join(differ)}")
    return found


def _comparable(cards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The models that are ranked together (see `leaderboard`); none where no two are comparable."""
    best: tuple[int, int] = (0, 0)
    chosen: list[str] = []
    for first in cards:
        together, shared = [first], set(cards[first])
        for other in cards:
            if other == first or any(_conflicts(cards[m], cards[other]) for m in together):
                continue
            if shared & set(cards[other]):
                together.append(other)
                shared &= set(cards[other])
        if (len(together), len(shared)) > best:
            best, chosen = (len(together), len(shared)), together
    return chosen if len(chosen) > 1 else []


def _board(
    group: ArenaGroup, models: Sequence[Mapping[str, Any]], cards: Mapping[str, Mapping[str, Any]]
) -> Board:
    mine = {m["name"]: cards[m["name"]] for m in models}
    together = _comparable(mine)
    values = {
        n: {c: float(x["metrics"][x["primary"]]["value"]) for c, x in own.items()} for n, own in mine.items()
    }
    scores: Mapping[str, float] = {}
    tasks: tuple[str, ...] = ()
    if together:
        common = arena_common({n: values[n] for n in together})
        scores, tasks = common.scores, common.tasks
    ranked, unranked = [], []
    for model in models:
        name = model["name"]
        if name in scores:
            rank = 1 + sum(s > scores[name] for s in scores.values())
            counted = {t: values[name][t] for t in tasks}
            ranked.append(_entry(model, group, mine[name], counted, rank, ()))
        else:
            others = together or [n for n in mine if n != name]
            reasons = _reasons(mine[name], {n: mine[n] for n in others})
            unranked.append(_entry(model, group, mine[name], values[name], None, reasons))
    notes = ["Published rows are not ranked: neither their frame lists nor their prompts were released."]
    if any(m["simulated"] for m in models):
        notes.insert(0, "Scores on simulated data say nothing about real operations or about published rows.")
    return Board(
        group=group,
        tasks=tasks,
        ranked=tuple(sorted(ranked, key=lambda e: e.rank or 0)),
        unranked=tuple(unranked),
        win_rates=win_rates({n: {t: values[n][t] for t in tasks} for n in scores}),
        published=_published(group),
        notes=tuple(notes),
    )


def _reasons(mine: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Why a model is not ranked with `others`."""
    found = [f"{why} than {name}" for name, theirs in others.items() for why in _conflicts(mine, theirs)]
    if found:
        return tuple(found)
    if not others:
        return ("no other model to compare with",)
    return (f"no task that all of {', '.join(others)} have",)


def _entry(
    model: Mapping[str, Any],
    group: ArenaGroup,
    cards: Mapping[str, Any],
    counted: Mapping[str, float],
    rank: int | None,
    reasons: tuple[str, ...],
) -> Entry:
    own = model["arena"].get(group)
    same = own is not None and set(own["tasks"]) == set(counted)
    floors = {c: cards[c]["floor"] for c in counted}
    primary = {c: x["metrics"][x["primary"]] for c, x in cards.items()}
    return Entry(
        name=model["name"],
        model=model["model"],
        simulated=bool(model["simulated"]),
        rank=rank,
        score=arena(counted),
        interval=(own["low"], own["high"]) if same else None,
        lift=arena_lift(counted, floors) if all(f is not None for f in floors.values()) else None,
        tasks={c: Cell(p["value"], p["low"], p["high"]) for c, p in primary.items()},
        left_out=tuple(c for c in cards if c not in counted),
        missing=tuple(c for c in PAPER_TASKS[group] if c not in cards),
        reasons=reasons,
    )


def _published(group: ArenaGroup) -> tuple[PublishedEntry, ...]:
    """Published models by Eq. 9 in the paper's reading, best first. An order to read by, not a ranking: the
    tasks and protocols behind the scores differ.
    """
    rows: dict[tuple[str, bool], dict[str, published.PublishedRow]] = {}
    for card, metric in PAPER_TASKS[group].items():
        for row in published.rows_for(card):
            if metric in row.metrics:
                # SurgVLM's own models were asked both ways; every other model has one row per card.
                rows.setdefault((row.model, row.protocol == "open"), {})[card] = row
    found = []
    for mine in rows.values():
        paper = arena_paper({c: r.metrics for c, r in mine.items()}, group)
        first = next(iter(mine.values()))
        found.append(
            PublishedEntry(
                model=first.model,
                printed_as=first.printed_as,
                score=paper.value,
                scores={c: r.metrics[PAPER_TASKS[group][c]] for c, r in mine.items()},
                protocols={c: r.protocol for c, r in mine.items()},
                missing=paper.missing,
            )
        )
    return tuple(sorted(found, key=lambda e: -e.score))
