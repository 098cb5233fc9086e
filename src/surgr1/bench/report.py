"""One self-contained HTML page of a run: scores with intervals and floors, Arena, radar, confusion, curves
and example frames. Works from disk, offline.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from surgr1.bench import charts
from surgr1.bench.runner import read_predictions
from surgr1.bench.scoring import compare
from surgr1.reasoning.answers import iou, parse_boxes
from surgr1.reasoning.trace import parse

MAX_EXAMPLES = 48
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


@dataclass(frozen=True)
class Stage:
    """One evaluated stage: its scores and where its predictions and training log lie."""

    name: str
    title: str
    scores: Mapping[str, Any]
    predictions: Path
    log: Path | None = None


@dataclass(frozen=True)
class ReportInput:
    """Everything the page shows. `composition` is dataset -> {"teacher": n, "self": n}; `facts` are
    provenance lines.
    """

    title: str
    simulated: bool
    stages: Sequence[Stage]
    statistics: Mapping[str, Mapping[str, int]]
    composition: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def templates(*packages: str) -> Any:
    """The jinja2 environment of our pages: templates of this room and of `packages`, escaped."""
    import jinja2

    loaders = [jinja2.PackageLoader(p) for p in ("surgr1.bench", *packages)]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def write_report(run: ReportInput, out: Path) -> Path:
    """Write the page to `out` and return it."""
    page = (
        templates()
        .get_template("report.html")
        .render(
            run=run,
            arenas=_arenas(run),
            radar=_radar(run),
            table=_table(run),
            curves=_curves(run),
            examples=_examples(run),
            palette=charts.PALETTE,
            confusions=[c for c in run.stages[-1].scores["cards"] if c["confusion"]],
            last=run.stages[-1],
        )
    )
    part = out.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    return out


def _safe(svg: str) -> Any:
    """Our own SVG; every label in it was escaped when it was made."""
    import markupsafe

    return markupsafe.Markup(svg)


def _arenas(run: ReportInput) -> list[dict[str, Any]]:
    found = []
    for group in ("public", "external"):
        rows = [
            (s.title, a["value"], a["low"], a["high"], a["floor"])
            for s in run.stages
            if (a := s.scores["arena"].get(group)) is not None
        ]
        if rows:
            last = run.stages[-1].scores["arena"][group]
            found.append(
                {
                    "group": group,
                    "svg": _safe(charts.bars(rows, title=f"Arena Score, {group}")),
                    "tasks": last["tasks"],
                    "lift": last["lift"],
                }
            )
    return found


def _radar(run: ReportInput) -> Any:
    cards = list(run.stages[-1].scores["cards"])
    if len(cards) < 3:
        return ""
    values = {}
    for stage in run.stages:
        by_id = {c["id"]: c["metrics"][c["primary"]]["value"] for c in stage.scores["cards"]}
        values[stage.title] = [by_id.get(c["id"], 0.0) for c in cards]
    return _safe(charts.radar([c["title"] for c in cards], values, [c["floor"] for c in cards]))


def _table(run: ReportInput) -> list[dict[str, Any]]:
    """One row per card: the primary score of every stage with interval and the paired change against the
    stage before.
    """
    rows = [list(read_predictions(s.predictions)) for s in run.stages]
    changes: list[dict[str, Any]] = [
        {},
        *[compare(a, b, draws=int(run.stages[0].scores["draws"])) for a, b in pairwise(rows)],
    ]
    table = []
    for card in run.stages[-1].scores["cards"]:
        cells = []
        for stage, change in zip(run.stages, changes, strict=True):
            mine = next((c for c in stage.scores["cards"] if c["id"] == card["id"]), None)
            difference = change.get(card["id"])
            mark = ""
            if difference:
                mark = "up" if difference["low"] > 0 else "down" if difference["high"] < 0 else "same"
            cells.append(
                {
                    "score": mine["metrics"][mine["primary"]] if mine else None,
                    "change": difference,
                    "mark": mark,
                }
            )
        table.append({"card": card, "cells": cells})
    return table


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log.jsonl by step: a step run again after a kill counts once, the last time."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [r for _, r in sorted({r["step"]: r for r in rows}.items())]


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


def _right(row: Mapping[str, Any]) -> bool:
    """Whether a prediction counts as right: equal to the label, for boxes an overlap of 0.5."""
    boxes = parse_boxes(row["prediction"] or ""), parse_boxes(row["answer"])
    if boxes[0] and boxes[1]:
        return iou(boxes[0][0], boxes[1][0]) >= 0.5
    return bool(row["prediction"] == row["answer"])


def _thumbnail(path: str) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _examples(run: ReportInput) -> list[dict[str, Any]]:
    """Right and wrong predictions of the last stage, spread over datasets and tasks, chosen by hash and not
    by eye.
    """
    groups: dict[tuple[str, str, bool], list[Mapping[str, Any]]] = {}
    for row in read_predictions(run.stages[-1].predictions):
        groups.setdefault((row["dataset"], row["task"], _right(row)), []).append(row)
    for members in groups.values():
        members.sort(key=lambda r: hashlib.sha256(r["sample_id"].encode()).hexdigest())
    chosen: list[Mapping[str, Any]] = []
    for turn in range(4):
        for key in sorted(groups):
            if turn < len(groups[key]) and len(chosen) < MAX_EXAMPLES:
                chosen.append(groups[key][turn])
    found: list[dict[str, Any]] = []
    for example in chosen:
        parsed = parse(example["text"], finish_reason=example["finish_reason"])
        width, height = example["size"]

        def drawn(text: str | None, width: int = width, height: int = height) -> list[dict[str, float]]:
            return [
                {
                    "x": 100 * b[0] / width,
                    "y": 100 * b[1] / height,
                    "w": 100 * (b[2] - b[0]) / width,
                    "h": 100 * (b[3] - b[1]) / height,
                }
                for b in parse_boxes(text or "")
            ]

        found.append(
            {
                "row": example,
                "right": _right(example),
                "image": _thumbnail(example["image"]),
                "levels": sorted(parsed.levels.items()),
                "truth_boxes": drawn(example["answer"]),
                "boxes": drawn(example["prediction"]),
                "ratio": height / width,
            }
        )
    return found
