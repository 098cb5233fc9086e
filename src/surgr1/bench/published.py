"""Published results as data, and what they say about the Arena numbers printed beside them.

`tables/provenance.yaml` names every table's source and what its columns are; the rows are CSVs. Nothing in
this module is a result: `check` computes every number from the rows and compares it with the printed one.
Published rows stand beside a new model's scores with their protocol and are never ranked with it: neither
frame lists nor prompts were released.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, cast

import yaml

from surgr1.bench.arena import PAPER_TASKS, ArenaGroup, arena, arena_paper
from surgr1.ontology.errors import SurgR1Error

PublishedProtocol = Literal["options", "open", "unknown"]
Verdict = Literal["reproduced", "not reproducible", "differs"]


class PublishedError(SurgR1Error):
    """The published data has no such table, row or column, or a file of it is damaged."""


@dataclass(frozen=True)
class Column:
    """A score column: its name in the CSV, our metric, and the card it belongs to (None: the source does not
    name the data set).
    """

    name: str
    metric: str
    card: str | None


@dataclass(frozen=True)
class Row:
    """One model's row. `printed` holds the cells as printed, by column name; `n` is the number of questions
    of which the accuracy is a whole number (None: none fits, or not applicable).
    """

    model: str
    printed_as: str
    reasoning: bool | None
    protocol: PublishedProtocol
    n: int | None
    printed: Mapping[str, str]

    def value(self, column: str) -> float:
        return float(self.printed[column])


@dataclass(frozen=True)
class Table:
    """One published table. `columns` are in printed order; `questions` counts the questions behind single
    columns (CVS criteria).
    """

    id: str
    title: str
    source: str
    unit: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    questions: Mapping[str, int]

    @property
    def cards(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.card for c in self.columns if c.card))

    def row(self, model: str, protocol: PublishedProtocol | None = None) -> Row | None:
        """The model's row, of the given protocol where it has several."""
        mine = [r for r in self.rows if r.model == model and protocol in (None, r.protocol)]
        return mine[0] if mine else None


@dataclass(frozen=True)
class PublishedRow:
    """A model's published scores on one card, {metric: percent}, with where they stand and how they were
    asked for.
    """

    model: str
    printed_as: str
    table: str
    source: str
    reasoning: bool | None
    protocol: PublishedProtocol
    n: int | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Headline:
    """A number stated in words or on a page."""

    id: str
    printed: str
    where: str
    says: str


@dataclass(frozen=True)
class Claim:
    """A published number and what the published rows give under a stated reading. `value` None: the rows do
    not determine it.
    """

    claim: str
    where: str
    reading: str
    value: float | None
    printed: float
    verdict: Verdict
    reason: str


def _text(name: str) -> str:
    return files("surgr1.bench").joinpath("tables", name).read_text(encoding="utf-8")


def _table(raw: Mapping[str, Any]) -> Table:
    columns = tuple(
        Column(name, at["metric"], at["card"]) if isinstance(at, dict) else Column(name, at, raw["card"])
        for name, at in raw["columns"].items()
    )
    rows = []
    reader = csv.DictReader(_text(f"{raw['id']}.csv").splitlines())
    expected = ["model", "printed_as", "reasoning", "protocol", "n", *(c.name for c in columns)]
    if list(reader.fieldnames or ()) != expected:
        raise PublishedError(
            f"{raw['id']}.csv has columns {reader.fieldnames}; provenance.yaml says {expected}"
        )
    for line in reader:
        rows.append(
            Row(
                model=line["model"],
                printed_as=line["printed_as"],
                reasoning={"yes": True, "no": False, "": None}[line["reasoning"]],
                protocol=cast(PublishedProtocol, line["protocol"]),
                n=int(line["n"]) if line["n"] else None,
                printed={c.name: line[c.name] for c in columns},
            )
        )
    return Table(
        raw["id"], raw["title"], raw["source"], raw["unit"], columns, tuple(rows), raw.get("questions", {})
    )


@lru_cache
def tables() -> tuple[Table, ...]:
    """Every published table: the paper's 4-7, 9-14 and 1, SurgVLM-Bench, the project page's bars."""
    return tuple(_table(raw) for raw in yaml.safe_load(_text("provenance.yaml")))


@lru_cache
def headlines() -> tuple[Headline, ...]:
    """Arena numbers and gaps that are stated outside tables."""
    return tuple(Headline(**line) for line in csv.DictReader(_text("headlines.csv").splitlines()))


def table(table_id: str) -> Table:
    """One table by id; PublishedError names the ones that exist."""
    found = {t.id: t for t in tables()}
    if table_id not in found:
        raise PublishedError(f"no published table {table_id!r}; there are {', '.join(found)}")
    return found[table_id]


def rows_for(card_id: str) -> tuple[PublishedRow, ...]:
    """Published rows of a card, in the order of `tables()`. A model's row with the same protocol in a later
    table is a repetition and left out; several protocols of one model are several rows.
    """
    found: dict[tuple[str, str], PublishedRow] = {}
    for t in tables():
        columns = [c for c in t.columns if c.card == card_id]
        for r in t.rows if columns else ():
            line = PublishedRow(
                model=r.model,
                printed_as=r.printed_as,
                table=t.id,
                source=t.source,
                reasoning=r.reasoning,
                protocol=r.protocol,
                n=r.n,
                metrics={c.metric: r.value(c.name) for c in columns},
            )
            found.setdefault((r.model, r.protocol), line)
    return tuple(found.values())


def paper_scores(model: str, group: ArenaGroup) -> dict[str, dict[str, float]]:
    """A model's scores on the paper's tasks of a group, {card: {metric: percent}}, from the paper's own
    tables (the first row of the model on each card).
    """
    found: dict[str, dict[str, float]] = {}
    for card in PAPER_TASKS[group]:
        for row in rows_for(card):
            if row.model == model and row.table.startswith("table"):
                found.setdefault(card, dict(row.metrics))
    return found


def pooled_accuracy(table_id: str, model: str) -> float:
    """CVS accuracy over all questions, from the criteria's accuracies and numbers of questions, in percent
    (evaluation.md finding 3).
    """
    t = table(table_id)
    row = t.row(model)
    if row is None:
        raise PublishedError(f"{table_id} has no row of {model}")
    right = sum(round(n * row.value(c) / 100) for c, n in t.questions.items())
    return 100 * right / sum(t.questions.values())


def check() -> tuple[Claim, ...]:
    """Every published Arena number against the published rows: the external and public bars of the project
    page, SurgVLM-Bench's sums, the numbers in the texts and the gaps stated there.
    """
    return (*_external_bars(), *_public_bars(), *_surgvlm_sums(), *_headline_claims(), *_joint_claims())


def _claim(claim: str, where: str, printed: str, value: float, reading: str, reason: str = "") -> Claim:
    """Reproduced means: rounded to the printed digits, the value is the printed number (a value half-way
    between two counts for both).
    """
    unit = 10.0 ** -len(printed.partition(".")[2])
    same = abs(value - float(printed)) <= unit / 2 + 1e-9
    return Claim(claim, where, reading, value, float(printed), "reproduced" if same else "differs", reason)


def _undetermined(claim: str, where: str, printed: str, reading: str, reason: str) -> Claim:
    return Claim(claim, where, reading, None, float(printed), "not reproducible", reason)


_EXTERNAL_READING = (
    "Eq. 9 over Renji triplet mAP, Renji phase, Strasbourg phase and CUHK action accuracy, West China and "
    "Nanfang CVS pooled over questions"
)
_EXTERNAL_REASON = (
    "The text defines the Renji task by triplet accuracy, which is printed nowhere; mAP gives the number."
)


def _external_bars() -> list[Claim]:
    t = table("page_external")
    return [
        _claim(
            f"External Arena Score of {r.printed_as}",
            t.source,
            r.printed["arena"],
            arena_paper(paper_scores(r.model, "external"), "external").value,
            _EXTERNAL_READING,
            _EXTERNAL_REASON,
        )
        for r in t.rows
    ]


def _public_bars() -> list[Claim]:
    """Sixteen bars come from SurgVLM-Bench's multiple-choice rows, four need numbers that nobody printed."""
    page, surgvlm, bypass = table("page_public"), table("surgvlm_bench"), table("table07")
    found = []
    for bar in page.rows:
        name, printed = f"Public Arena Score of {bar.printed_as}", bar.printed["arena"]
        theirs, ours = surgvlm.row(bar.model, "options"), bypass.row(bar.model)
        if theirs is None:
            found.append(_public_bar_without_rows(name, page.source, bar.model, printed))
            continue
        parts = [theirs.value(c) for c in ("phase", "action", "triplet", "cvs", "localization")]
        reading = (
            "mean of SurgVLM-Bench's phase, action, triplet, CVS and localization (mIoU), multiple choice"
        )
        if ours is not None:
            parts.append(ours.value("accuracy"))
            reading += ", and MultiBypass140 phase accuracy"
        found.append(
            _claim(
                name,
                page.source,
                printed,
                sum(parts) / len(parts),
                reading,
                f"{len(parts)} tasks; other bars of this ranking average another number of tasks.",
            )
        )
    return found


def _public_bar_without_rows(name: str, where: str, model: str, printed: str) -> Claim:
    scores = {c: s["accuracy"] for c, s in paper_scores(model, "public").items()}
    four, tasks = sum(scores.values()), len(scores) + 2
    return _undetermined(
        name,
        where,
        printed,
        "Eq. 9 over the four printed public tasks, CVS and localization",
        f"CVS and localization of this model are drawn in figures and printed nowhere. The {len(scores)} "
        f"printed tasks give {four / len(scores):.2f}; if {tasks} tasks were averaged, the two unprinted "
        f"ones add up to {tasks * float(printed) - four:.1f}.",
    )


def _surgvlm_sums() -> list[Claim]:
    t = table("surgvlm_bench")
    tasks = [c.name for c in t.columns if c.name != "arena_sum"]
    return [
        _claim(
            f"SurgVLM-Bench Arena Score of {r.printed_as}, {r.protocol}",
            t.source,
            r.printed["arena_sum"],
            sum(r.value(c) for c in tasks),
            "sum, not mean, of " + ", ".join(tasks),
        )
        for r in t.rows
    ]


def _headline_claims() -> list[Claim]:
    found = []
    for h in headlines():
        kind, _, subject = h.id.partition("-")
        if kind == "public":
            found.append(_public_headline(h, subject))
        elif h.id == "external-gap":
            ours, theirs = (_external(m) for m in ("surg-r1", "qwen2.5-vl-7b-surg"))
            average = [_external(m, cvs="average") for m in ("surg-r1", "qwen2.5-vl-7b-surg")]
            found.append(
                _claim(
                    h.says,
                    h.where,
                    h.printed,
                    ours - theirs,
                    _EXTERNAL_READING,
                    "With the mean of the three criteria (Avg) instead of pooled CVS the gap would be "
                    f"{average[0] - average[1]:.2f}.",
                )
            )
        elif kind == "external":
            found.append(
                _claim(h.says, h.where, h.printed, _external(subject), _EXTERNAL_READING, _EXTERNAL_REASON)
            )
        elif kind == "gap":
            found.append(_gap_headline(h, subject))
        elif h.id == "page-surgvlm-72b":
            theirs_sum = _surgvlm("surgvlm-72b", "options", "arena_sum")
            reading = "SurgVLM-Bench's sum over six tasks (multiple choice, with VQA) divided by six"
            reason = "Other tasks than the scores it is compared with."
            found.append(_claim(h.says, h.where, h.printed, theirs_sum / 6, reading, reason))
        elif kind == "surgvlm":
            best, rival = (_surgvlm(m, "options", "arena_sum") for m in ("surgvlm-72b", "gemini-2.0-flash"))
            found.append(
                _claim(h.says, h.where, h.printed, 100 * (best / rival - 1), "ratio of the two sums")
            )
        else:
            found.append(_history(h, kind, subject))
    return found


def _surgvlm(model: str, protocol: PublishedProtocol, column: str) -> float:
    row = table("surgvlm_bench").row(model, protocol)
    if row is None:
        raise PublishedError(f"surgvlm_bench has no row of {model} asked as {protocol}")
    return row.value(column)


def _external(model: str, cvs: str = "pooled") -> float:
    scores = paper_scores(model, "external")
    for card in ("west-china-cvs", "nanfang-cvs"):
        scores[card]["pooled"] = scores[card][cvs]
    return arena_paper(scores, "external").value


def _public(model: str, *, with_rarp: bool) -> float:
    scores = {c: s["accuracy"] for c, s in paper_scores(model, "public").items()}
    return arena({c: v for c, v in scores.items() if with_rarp or c != "sar-rarp50-action"})


def _public_headline(h: Headline, model: str) -> Claim:
    """Surg-R1 has all four public tasks, the proprietary models only the three rows of Table 1."""
    four, three = _public(model, with_rarp=True), _public(model, with_rarp=False)
    models = ("surg-r1", "gpt-5.1", "gemini-3.0-pro")
    alike = "Like for like (Surg-R1, GPT-5.1, Gemini 3.0 Pro): four tasks {}, three tasks {}.".format(
        *(" / ".join(f"{_public(m, with_rarp=w):.2f}" for m in models) for w in (True, False))
    )
    if model == "surg-r1":
        return _claim(
            h.says,
            h.where,
            h.printed,
            four,
            "Eq. 9 over all four tasks",
            f"Three tasks: {three:.2f}. {alike}",
        )
    return _claim(
        h.says,
        h.where,
        h.printed,
        three,
        "Eq. 9 over the three tasks of Table 1, without SAR-RARP50",
        f"Table 6 has this model's SAR-RARP50 row; with it the score is {four:.2f}. {alike}",
    )


# What each stated gap is against; Renji's text names no baseline, only this one gives the number.
_GAP_BASELINES = {
    "cholect50-triplet": "gpt-5.1",
    "sar-rarp50-action": "qwen2.5-vl-7b-surg",
    "cholec80-phase": "gemini-3.0-pro",
    "cuhk-action": "qwen2.5-vl-7b-surg",
    "strasbourg-phase": "qwen2.5-vl-7b-surg",
    "renji-phase": "qwen2.5-vl-7b-surg",
}


def _gap_headline(h: Headline, card: str) -> Claim:
    baseline = _GAP_BASELINES[card]
    rows = {r.model: r for r in reversed(rows_for(card)) if r.table.startswith("table")}
    ours = rows.pop("surg-r1").metrics["accuracy"]
    best = max(rows.values(), key=lambda r: r.metrics["accuracy"])
    named = rows[baseline]
    reason = f"{named.printed_as} is the best baseline of the table."
    if best.model != named.model:
        reason = (
            f"Not the best baseline: {best.printed_as} has {best.metrics['accuracy']:.2f}, "
            f"a gap of {ours - best.metrics['accuracy']:.1f}."
        )
    return _claim(
        h.says,
        h.where,
        h.printed,
        ours - named.metrics["accuracy"],
        f"accuracy of Surg-R1 minus {named.printed_as}",
        reason,
    )


def _history(h: Headline, kind: str, model: str) -> Claim:
    """Arena Scores of earlier texts: over other sets of public tasks than the paper's four."""
    four = f"the paper's four public tasks give {_public(model, with_rarp=True):.2f}"
    if kind == "header":
        reading = "Eq. 9 over the four public tasks that the same page's abstract counts"
        reason = (
            "The header keeps an earlier version's number; the abstract below it prints the recomputed one."
        )
        return _claim(h.says, h.where, h.printed, _public(model, with_rarp=True), reading, reason)
    bar = table("page_public").row(model)
    drawn = bar.printed["arena"] if bar else ""
    if kind == "page" and bar and drawn != h.printed:
        reading = "the bar of the same page"
        reason = f"The page's text says {h.printed}, its bar {drawn}; {four}."
        return _claim(h.says, h.where, h.printed, float(drawn), reading, reason)
    same = [f"{k}-{model}" for k in ("public", "header", "v1", "page")]
    versions = [f"{o.printed} ({o.where})" for o in headlines() if o.id in same and o != h]
    return _undetermined(
        h.says,
        h.where,
        h.printed,
        "Eq. 9 over the task set of that version",
        "It counts public tasks whose scores are printed nowhere as numbers, such as localization; "
        f"{four}. The same model elsewhere: {', '.join(versions)}.",
    )


def _joint_claims() -> list[Claim]:
    """The captions of Tables 9 and 10 call "Overall" a joint accuracy."""
    found = []
    for t in (table("table09"), table("table10")):
        row = t.row("surg-r1")
        if row is None:
            raise PublishedError(f"{t.id} has no row of surg-r1")
        worst = min(row.value(c) for c in t.questions)
        above = sum(r.value("pooled") > min(r.value(c) for c in t.questions) for r in t.rows)
        found.append(
            _claim(
                f"Surg-R1's overall accuracy of the joint CVS assessment, {t.title}",
                t.source,
                row.printed["pooled"],
                pooled_accuracy(t.id, "surg-r1"),
                "right answers to all questions on single criteria, pooled",
                f"Not a joint accuracy: that could not exceed the worst criterion ({worst:.2f}); Overall "
                f"does in {above} of {len(t.rows)} rows.",
            )
        )
    return found
