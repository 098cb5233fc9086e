"""The static SurgBench page: of a run's stages, or of any models asked. Arena Scores, radars, tasks with
intervals and floors, confusion, centres, outcomes, calibration, reasoning, cost, every sample.

The page works from disk, offline: `NAME.html` holds everything but the samples and their pictures, which lie
in `NAME_files/` and are loaded when looked at (bench/report_samples.py).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from surgr1.bench import charts, report_tables
from surgr1.bench.arena import PAPER_TASKS
from surgr1.bench.cards import all_cards
from surgr1.bench.leaderboard import Board, leaderboard
from surgr1.bench.predictions import API_ERRORS, main_rows, read_predictions
from surgr1.bench.published import rows_for
from surgr1.bench.reasoning_metrics import has_trace, trace_features
from surgr1.bench.report_samples import Row, SampleFiles, write_samples
from surgr1.bench.scoring import compare
from surgr1.bench.statements import shown
from surgr1.bench.statistics import MIN_VIDEOS
from surgr1.ontology.errors import SurgR1Error
from surgr1.reasoning.trace import Outcome

MAX_PICTURES = 600
OUTCOMES = tuple(map(str, Outcome))
RUNGS = ("exact", "alias", "letter", "mention", "fuzzy", "none")
_CURVES = (
    "loss",
    "reward",
    "rewards/answer/mean",
    "rewards/format/mean",
    "entropy",
    "groups/mixed",
    "w/max",
    "completions/mean_length",
)
Scores = Mapping[str, Any]


class ReportError(SurgR1Error):
    """A folder that a page cannot be made from."""


@dataclass(frozen=True)
class Stage:
    """One stage or model: its scores and where its predictions and training log lie."""

    name: str
    title: str
    scores: Scores
    predictions: Path
    log: Path | None = None


@dataclass(frozen=True)
class ReportInput:
    """Everything the page shows. `composition` is dataset -> {"teacher": n, "self": n}; `facts` are
    provenance lines. With `ordered` every stage is compared with the one before (a run's stages), else with
    the first (models).
    """

    title: str
    simulated: bool
    stages: Sequence[Stage]
    statistics: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    composition: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    ordered: bool = True


def templates(*packages: str) -> Any:
    """The jinja2 environment of our pages: templates of this room and of `packages`, escaped."""
    import jinja2

    loaders = [jinja2.PackageLoader(p) for p in ("surgr1.bench", *packages)]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def read_model(folder: Path) -> Stage:
    """One asked model from its folder with scores.json and predictions.jsonl (or .parquet). Raises
    ReportError without scores.json.
    """
    path = folder / "scores.json"
    if not path.is_file():
        raise ReportError(f"{path}: no such scores; run `surgr1 bench run` or `surgr1 bench score` first")
    scores = json.loads(path.read_text(encoding="utf-8"))
    name, parquet = str(scores["name"]), folder / "predictions.parquet"
    return Stage(name, name, scores, parquet if parquet.is_file() else folder / "predictions.jsonl")


_BESIDE = ("calibration", "reasoning", "statements", "probes", "usage")


def _with_beside(stage: Stage) -> Stage:
    """The stage with what other commands left beside its predictions (calibration.json and so on) in its
    scores, under the file's name.
    """
    files = {name: stage.predictions.with_name(f"{name}.json") for name in _BESIDE}
    found = {n: json.loads(f.read_text(encoding="utf-8")) for n, f in files.items() if f.is_file()}
    # The page calls a model by its title everywhere.
    return replace(stage, scores={**stage.scores, **found, "name": stage.title})


def model_page(
    folders: Sequence[Path], out: Path, *, title: str = "SurgBench", pictures: int = MAX_PICTURES
) -> Path:
    """Write `out`/index.html comparing the models of `folders` with the first, and return it. Raises
    ReportError.
    """
    models = [read_model(f) for f in folders]
    if not models:
        raise ReportError("no folder given; name at least one folder with scores.json and predictions.jsonl")
    titles = Counter(m.title for m in models)
    # Two folders of one model (two protocols, say) are told apart by their folders.
    models = [
        replace(m, title=f"{m.title} ({f.name})") if titles[m.title] > 1 else m
        for m, f in zip(models, folders, strict=True)
    ]
    facts = {"models": ", ".join(dict.fromkeys(str(m.scores["model"] or m.name) for m in models))}
    simulated = any(m.scores["simulated"] for m in models)
    out.mkdir(parents=True, exist_ok=True)
    page = ReportInput(title, simulated, models, facts=facts, ordered=False)
    return write_report(page, out / "index.html", pictures=pictures)


def write_report(run: ReportInput, out: Path, *, pictures: int = MAX_PICTURES) -> Path:
    """Write the page to `out` and its side files to `<out without .html>_files/`, and return it. At most
    `pictures` frames get a picture.
    """
    run = replace(run, stages=[_with_beside(s) for s in run.stages])
    rows = [main_rows(read_predictions(s.predictions)) for s in run.stages]
    files = out.with_name(f"{out.stem}_files")
    samples = write_samples(rows, files, pictures=pictures, inconsistent=[_inconsistent(r) for r in rows])
    scores = [s.scores for s in run.stages]
    report_tables.write_tables(scores, files, simulated=run.simulated)
    cards, boards = _cards(run), leaderboard(scores)
    page = (
        templates()
        .get_template("report.html")
        .render(
            run=run,
            last=run.stages[-1],
            models=[_model(s, k) for k, s in enumerate(run.stages)],
            leaderboards=[_board(b, run, cards) for b in boards],
            radars=[r for b in boards if (r := _radar(b, run, cards))],
            table=_table(run, cards, rows),
            confusions=_confusions(run, cards),
            centres=_centres(run, cards),
            answers=_answers(run),
            sensitivity=_sensitivity(run, cards),
            calibration=_calibration(run),
            reasoning=_reasoning(run),
            probes=_probes(run),
            statements=_statements(run),
            letters=_letters(run),
            costs=[_cost(s, r) for s, r in zip(run.stages, rows, strict=True)],
            stamps=_stamps(run, cards),
            keys=list(dict.fromkeys(k for c in cards for k in (*c["stamp"], *c["asked"]))),
            curves=_curves(run),
            samples=samples,
            data=_data(run, samples, files.name),
            outcomes=OUTCOMES,
            rungs=RUNGS,
            files=files.name,
        )
    )
    part = out.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    return out


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log.jsonl by step: a step run again after a kill counts once, the last time."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for _, r in sorted({r["step"]: r for r in rows}.items())]


def _safe(svg: str) -> Any:
    """Our own SVG; every label in it was escaped when it was made."""
    import markupsafe

    return markupsafe.Markup(svg)


def _card(stage: Stage, card_id: str) -> Any:
    """A stage's scores on one card, or None."""
    return next((c for c in stage.scores["cards"] if c["id"] == card_id), None)


def _cards(run: ReportInput) -> list[Any]:
    """Every card that any stage was scored on, in the order of the report; of each the first stage's entry,
    whose title, floor and N stand for the card.
    """
    found = {c["id"]: c for s in reversed(run.stages) for c in s.scores["cards"]}
    return sorted(found.values(), key=lambda c: ("public", "external", "extra").index(c["group"]))


def _primary(card: Any) -> Any:
    return card["metrics"][card["primary"]]


def _model(stage: Stage, k: int) -> dict[str, Any]:
    """Title, mark and what makes the stage's scores less than final."""
    scores, outcomes = stage.scores, _total(stage, "outcomes")
    errors = outcomes["api_error"] / max(1, sum(outcomes.values()))
    warnings = [(c["title"], w) for c in scores["cards"] for w in c["warnings"]]
    return {
        "title": stage.title,
        "mark": _safe(charts.marker(k)),
        "failed": errors > API_ERRORS,
        "errors": errors,
        # What the asking left: answers that are missing, data that could not be asked about.
        "note": scores.get("usage", {}).get("note", ""),
        "withheld": scores.get("usage", {}).get("withheld", []),
        "valid_format": scores["valid_format"],
        "warnings": warnings,
    }


def _total(stage: Stage, key: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for card in stage.scores["cards"]:
        total.update(card[key])
    return total


def _missing(stage: Stage, card_id: str) -> str:
    """Why a card has no score here: "policy" where its data may not go to this model, else ""."""
    withheld = {w["dataset"].removeprefix("sim-") for w in stage.scores.get("usage", {}).get("withheld", ())}
    dataset = next((c.dataset for c in all_cards() if c.id == card_id), None)
    return "policy" if dataset in withheld else ""


def _same_stamp(cards: Sequence[Any]) -> bool:
    return all(c["stamp"] == cards[0]["stamp"] for c in cards)


def _inconsistent(rows: Sequence[Row]) -> frozenset[str]:
    """The samples whose trace contradicts itself or its answer (evaluation.md B8, chain consistency)."""
    return frozenset(r["sample_id"] for r in rows if has_trace(r) and trace_features(r).consistent is False)


def _board(board: Board, run: ReportInput, cards: Sequence[Any]) -> dict[str, Any]:
    """One Arena group: ranked models, unranked ones with the reasons, published ones beside."""
    titles = {c.id: c.title for c in all_cards()} | {c["id"]: c["title"] for c in cards}
    order = [s.title for s in run.stages]
    lines = []
    for entry in (*board.ranked, *board.unranked):
        k = order.index(entry.name)
        arena = run.stages[k].scores["arena"].get(board.group)
        lines.append(
            {
                "entry": entry,
                "mark": _safe(charts.marker(k)),
                "floor": arena["floor"] if arena else None,
                "bar": _safe(
                    charts.interval_bar(
                        entry.score,
                        entry.interval,
                        arena["floor"] if arena and entry.interval else None,
                        series=k,
                    )
                ),
                "missing": [(titles[i], _missing(run.stages[k], i)) for i in entry.missing],
            }
        )
    return {
        "group": board.group,
        "lines": lines,
        "common": [titles[i] for i in board.tasks],
        "of": len(PAPER_TASKS[board.group]),
        "published": board.published,
        "wins": board.win_rates if len(board.ranked) > 1 else {},
        "notes": board.notes,
        "titles": titles,
    }


def _radar(board: Board, run: ReportInput, cards: Sequence[Any]) -> dict[str, Any] | None:
    """The radar of an Arena group with at least three tasks (the paper's Figure 1c)."""
    mine = [c for c in cards if c["group"] == board.group]
    if len(mine) < 3:
        return None
    axes = []
    for c in mine:
        first, _, rest = c["title"].rpartition(" ")
        axes.append((first, f"{rest}, {c['primary']}"))
    values: dict[str, list[float | None]] = {}
    for stage in run.stages:
        theirs = [_card(stage, c["id"]) for c in mine]
        values[stage.title] = [_primary(c)["value"] if c else None for c in theirs]
    apart = [e.name for e in board.unranked]
    title = f"Primary scores on the {board.group} tasks"
    svg = charts.radar(axes, values, [c["floor"] or 0.0 for c in mine], title=title, apart=apart)
    return {"group": board.group, "svg": _safe(svg), "apart": apart}


def _table(run: ReportInput, cards: Sequence[Any], rows: Sequence[Sequence[Row]]) -> list[dict[str, Any]]:
    """One row per card: the primary score of every stage with interval, lift and the paired change; beneath
    it every other metric.
    """
    changes: list[Mapping[str, Any]] = [{}]
    for k in range(1, len(rows)):
        before = k - 1 if run.ordered else 0
        changes.append(_changes(run.stages[before], run.stages[k], rows[before], rows[k]))
    table = []
    for card in cards:
        theirs = [_card(s, card["id"]) for s in run.stages]
        cells = []
        for k, (stage, mine) in enumerate(zip(run.stages, theirs, strict=True)):
            change = changes[k].get(card["id"])
            mark = ""
            if change:
                mark = "up" if change["low"] > 0 else "down" if change["high"] < 0 else "same"
            cells.append({"card": mine, "change": change, "mark": mark, "why": _missing(stage, card["id"])})
        scored = [c for c in theirs if c]
        names = list(dict.fromkeys(n for c in scored for n in c["metrics"]))
        metrics = [
            {
                "name": n,
                "floor": card["floors"].get(n),
                "values": [c["metrics"].get(n) if c else None for c in theirs],
            }
            for n in names
        ]
        table.append(
            {
                "card": card,
                "cells": cells,
                "metrics": metrics,
                "few": card["videos"] < MIN_VIDEOS,
                "mixed": not _same_stamp(scored),
                "published": _published(card["id"], names),
                "videos": {
                    v: [c["per_video"].get(v) if c else None for c in theirs] for v in card["per_video"]
                },
            }
        )
    return table


def _changes(one: Stage, other: Stage, before: Sequence[Row], after: Sequence[Row]) -> Mapping[str, Any]:
    """Paired differences of the cards that both have under one stamp, for the same samples (files of other
    programs may name theirs differently).
    """
    alike: list[list[Row]] = [[], []]
    for mine in other.scores["cards"]:
        theirs = _card(one, mine["id"])
        if theirs and _same_stamp([mine, theirs]):
            key = (mine["dataset"], mine["task"])
            pair = [[r for r in rows if (r["dataset"], r["task"]) == key] for rows in (before, after)]
            if {r["sample_id"] for r in pair[0]} == {r["sample_id"] for r in pair[1]}:
                alike = [kept + found for kept, found in zip(alike, pair, strict=True)]
    return compare(*alike, draws=int(one.scores["draws"])) if alike[0] else {}


def _published(card_id: str, metrics: Sequence[str]) -> dict[str, Any]:
    """The published rows of a card, with those of our metrics that any of them has."""
    rows = rows_for(card_id)
    known = [m for m in metrics if any(m in r.metrics for r in rows)]
    return {"metrics": known, "rows": [(r, [r.metrics.get(m) for m in known]) for r in rows]}


def _confusions(run: ReportInput, cards: Sequence[Any]) -> list[dict[str, Any]]:
    found = []
    for card in cards:
        matrices = [
            {"title": s.title, "rows": c["confusion"]}
            for s in run.stages
            if (c := _card(s, card["id"])) and c["confusion"]
        ]
        if matrices:
            found.append({"card": card, "matrices": matrices})
    return found


def _centres(run: ReportInput, cards: Sequence[Any]) -> list[dict[str, Any]]:
    found = []
    for card in cards:
        theirs = [
            {c["centre"]: c for c in mine["centres"]} if (mine := _card(s, card["id"])) else {}
            for s in run.stages
        ]
        for centre in dict.fromkeys(name for t in theirs for name in t):
            known = next(t[centre] for t in theirs if centre in t)
            found.append({"card": card, "centre": known, "cells": [t.get(centre) for t in theirs]})
    return found


def _ordered(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The counts in a fixed order; rungs call the empty rung "none"."""
    return {n: counts.get(n, 0) + (counts.get("", 0) if n == "none" else 0) for n in names}


def _answers(run: ReportInput) -> list[dict[str, Any]]:
    """What became of a model's answers, over all cards and per card."""
    found = []
    for stage in run.stages:
        lines = [("all tasks", _total(stage, "outcomes"), _total(stage, "rungs"))]
        lines += [(c["title"], c["outcomes"], c["rungs"]) for c in stage.scores["cards"]]
        told = []
        for title, outcomes, rungs in lines:
            counts, ladder = _ordered(outcomes, OUTCOMES), _ordered(rungs, RUNGS)
            total = sum(counts.values())
            told.append(
                {
                    "title": title,
                    "n": total,
                    "coverage": (counts["ok"] + counts["repaired"]) / total if total else 0.0,
                    "outcomes": counts,
                    "rungs": ladder,
                    "bar": _safe(charts.shares(counts, title=f"{stage.title}, {title}", prefix="outcome")),
                }
            )
        found.append({"title": stage.title, "total": told[0], "cards": told[1:]})
    return found


def _sensitivity(run: ReportInput, cards: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"card": card, "cells": [_card(s, card["id"]) for s in run.stages]} for card in cards]


def _calibration(run: ReportInput) -> list[dict[str, Any]]:
    found = []
    for k, stage in enumerate(run.stages):
        given = stage.scores.get("calibration")
        if given:
            svg = charts.reliability(given["bins"], title=f"Reliability of {stage.title}", series=k)
            found.append(
                {"title": stage.title, "ece": given["ece"], "brier": given["brier"], "svg": _safe(svg)}
            )
    return found


def _reasoning(run: ReportInput) -> list[dict[str, Any]]:
    """One table of trace metrics per dataset and task (`reasoning_metrics.reasoning_scores`)."""
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for k, stage in enumerate(run.stages):
        for group in (stage.scores.get("reasoning") or {}).get("groups", ()):
            title = f"{group['dataset']}, {group['task'].replace('_', ' ')}"
            tables.setdefault(title, [{} for _ in run.stages])[k] = group["metrics"]
    return [{"title": t, "lines": _named(v)} for t, v in tables.items()]


_PROBED = {"changed": "answer changed", "to_wrong": "right to wrong", "excess": "changed, over the floor"}


def _probes(run: ReportInput) -> list[dict[str, Any]]:
    """The answer-change rates of every probe (`probes.probe_scores`), floors of their own left out."""
    values: list[dict[str, Any]] = []
    for stage in run.stages:
        mine = {}
        for kind, body in (stage.scores.get("probes") or {}).get("probes", {}).items():
            for key, words in _PROBED.items():
                if body[key]["value"] is not None:
                    mine[f"{kind}: {words}"] = body[key] | {"n": body["n"]}
        values.append(mine)
    return _named(values)


def _statements(run: ReportInput) -> dict[str, Any]:
    """Statements of the traces against simulated scenes (`statements.score_rows`), and what was refuted most
    often.
    """
    values: list[dict[str, Any]] = []
    for stage in run.stages:
        given = stage.scores.get("statements") or {"metrics": {}, "traces": 0}
        told = shown(given["metrics"])
        values.append({n: {"value": v, "n": given["traces"]} for n, v in told.items()})
    refuted = [
        {"title": s.title, "lines": found[:8]}
        for s in run.stages
        if (found := (s.scores.get("statements") or {}).get("refuted"))
    ]
    return {"lines": _named(values), "refuted": refuted}


def _letters(run: ReportInput) -> list[dict[str, Any]]:
    """How often each option letter was chosen and was right (`predictions.letter_counts`)."""
    counts = [s.scores.get("letters") or {} for s in run.stages]
    return [
        {"letter": x, "cells": [c.get(x) for c in counts]} for x in sorted({x for c in counts for x in c})
    ]


def _named(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A table of named values: one line per name that any stage has."""
    names = dict.fromkeys(n for v in values for n in v)
    return [{"name": n, "cells": [v.get(n) for v in values]} for n in names]


def _cost(stage: Stage, rows: Sequence[Row]) -> dict[str, Any]:
    """Requests, tokens and money over all cards; seconds per answer from the predictions themselves."""
    usage = [c["usage"] for c in stage.scores["cards"]]
    seconds = sorted(r["latency_s"] for r in rows if r["latency_s"])
    costs = [u["cost_usd"] for u in usage]
    # Where prices were known when the model was asked, the bill lies beside its answers.
    asked = stage.scores.get("usage", {}).get("total", {}).get("cost_usd")
    cost = asked if asked is not None else sum(costs) if costs and None not in costs else None

    def rank(share: float) -> float | None:
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else None

    return {
        "title": stage.title,
        "requests": sum(u["requests"] for u in usage),
        "tokens_in": sum(u["tokens_in"] for u in usage),
        "tokens_out": sum(u["tokens_out"] for u in usage),
        "p50": rank(0.5),
        "p95": rank(0.95),
        "cost": cost,
        "arena": {g: stage.scores["arena"].get(g) for g in ("public", "external")},
    }


def _stamps(run: ReportInput, cards: Sequence[Any]) -> list[dict[str, Any]]:
    """Per card the different stamps and ways of asking, and of which stages."""
    found = []
    for card in cards:
        groups: dict[str, dict[str, Any]] = {}
        for stage in run.stages:
            if mine := _card(stage, card["id"]):
                stamp = {**mine["stamp"], **mine["asked"]}
                key = json.dumps(stamp, sort_keys=True)
                entry = groups.setdefault(key, {"stamp": stamp, "titles": []})
                entry["titles"].append(stage.title)
        found.append({"card": card, "stamps": list(groups.values())})
    return found


def _curves(run: ReportInput) -> list[dict[str, Any]]:
    found = []
    for stage in run.stages:
        if stage.log is None or not stage.log.is_file():
            continue
        rows = read_log(stage.log)
        plots = [charts.line([(r["step"], r[k]) for r in rows if k in r], title=k) for k in _CURVES]
        plots = [_safe(p) for p in plots if p]
        if plots:
            found.append({"title": stage.title, "plots": plots})
    return found


def _data(run: ReportInput, samples: SampleFiles, files: str) -> Any:
    """What the page's script must know before any side file is loaded."""
    told = {
        "models": [s.title for s in run.stages],
        "files": files,
        "samples": samples.samples,
        "simulated": run.simulated,
    }
    return _safe(json.dumps(told).replace("<", "\\u003c"))
