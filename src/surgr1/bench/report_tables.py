"""The paper's tables from scores: Markdown, CSV and LaTeX (booktabs), one table per data set with the columns
that the paper prints for it (Tables 4-7 and 9-14), and the Arena Scores.

Published rows can be put beneath. They are marked, never bold, and never sorted in: neither their frames nor
their prompts were released.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgr1.bench import published
from surgr1.bench.statements import shown
from surgr1.bench.statistics import MIN_VIDEOS

Scores = Mapping[str, Any]
_PUBLISHED = "as published; other frames and prompts, not ranked"
_SIMULATED = "Simulated data: says nothing about real operations."
_HEADS = {
    "accuracy": "Accuracy",
    "recall": "Recall",
    "weighted_recall": "Recall (weighted)",
    "precision": "Precision",
    "jaccard": "Jaccard",
    "f1": "F1",
    "pooled": "Overall",
    "average": "Avg",
    "c1": "C1",
    "c2": "C2",
    "c3": "C3",
    "tool": "Inst.",
    "verb": "Verb",
    "target": "Target",
    "map_i": "Inst.",
    "map_v": "Verb",
    "map_t": "Target",
    "miou": "mIoU",
    "acc50": "Acc@0.5",
    "acc75": "Acc@0.75",
}
# The triplet tables have two lines of heads: the score, and beneath it what it is of.
_TRIPLETS = {"accuracy": "Triplet", "map": "Triplet"}
# What the paper has no table for: localization and tools.
_OTHERS = {"box": ("miou", "acc50", "acc75"), "cvs": ("pooled", "average", "c1", "c2", "c3")}


@dataclass(frozen=True)
class Line:
    """One model's line: values in percent by column, None where there is none; `thinking` None: unknown."""

    name: str
    thinking: bool | None
    values: tuple[float | None, ...]
    published: bool = False


@dataclass(frozen=True)
class Table:
    """One table. `spans` are heads over several columns (head, columns), empty where there is one line of
    heads. `thinking` tells whether the paper's table has that column.
    """

    id: str
    caption: str
    spans: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    thinking: bool = False

    def best(self) -> tuple[float | None, ...]:
        """The best value of every column among the lines that are not published, as printed."""
        ours = [x.values for x in self.lines if not x.published]
        columns = [[round(v, 2) for x in ours if (v := x[k]) is not None] for k in range(len(self.columns))]
        return tuple(max(c) if len(ours) > 1 and c else None for c in columns)


def paper_tables(scores: Sequence[Scores], *, simulated: bool = False, beside: bool = False) -> list[Table]:
    """A table per card that any of the models has, and one of the Arena Scores. `beside` adds the paper's
    rows beneath ours.
    """
    cards: dict[str, Any] = {c["id"]: c for s in scores for c in s["cards"]}
    return [*(_card_table(c, scores, simulated, beside) for c in cards.values()), _arena(scores, simulated)]


def _paper_table(card_id: str) -> published.Table | None:
    """The paper's own table of a card."""
    return next(
        (t for t in published.tables() if t.cards == (card_id,) and t.source.startswith("Surg-R1")), None
    )


def _card_table(card: Any, scores: Sequence[Scores], simulated: bool, beside: bool) -> Table:
    theirs = _paper_table(card["id"])
    if theirs:
        metrics = tuple(c.metric for c in theirs.columns)
    else:
        metrics = _OTHERS.get(card["kind"], (card["primary"],))
        if card["kind"] == "label":
            metrics = ("accuracy", "recall", "precision", "jaccard")
    triplets = card["kind"] == "triplets"
    heads = tuple(_TRIPLETS.get(m, _HEADS.get(m, m)) if triplets else _HEADS.get(m, m) for m in metrics)
    lines = []
    for s in scores:
        mine = next((c for c in s["cards"] if c["id"] == card["id"]), None)
        if mine:
            values = tuple(mine["metrics"].get(m, {}).get("value") for m in metrics)
            lines.append(Line(s["name"], _thinks(mine), values))
    if beside and theirs:
        for row in theirs.rows:
            printed = tuple(row.value(c.name) for c in theirs.columns)
            lines.append(Line(row.printed_as, row.reasoning, printed, published=True))
    spans: tuple[tuple[str, int], ...] = ()
    if triplets:
        maps = sum(m.startswith("map") for m in metrics)
        spans = tuple(x for x in (("Accuracy (%)", len(metrics) - maps), ("mAP (%)", maps)) if x[1])
    caption = f"{card['title']}, {card['n']} questions in {card['videos']} videos, percent."
    if simulated:
        caption = f"{_SIMULATED} {caption}"
    shown = theirs is not None and any(r.reasoning is not None for r in theirs.rows)
    return Table(card["id"], caption, spans, heads, tuple(lines), shown)


def _thinks(card: Any) -> bool | None:
    """Whether levels were asked for; None where rows of both kinds were scored together."""
    return {"levels": True, "answer alone": False}.get(card["asked"]["reasoning"])


def _arena(scores: Sequence[Scores], simulated: bool) -> Table:
    groups = [g for g in ("public", "external") if any(g in s["arena"] for s in scores)]
    lines = tuple(
        Line(s["name"], None, tuple(s["arena"][g]["value"] if g in s["arena"] else None for g in groups))
        for s in scores
    )
    tasks = "; ".join(f"{g}: {', '.join(_tasks(scores, g))}" for g in groups)
    caption = f"Arena Score, the mean of the primary scores ({tasks}), percent."
    if simulated:
        caption = f"{_SIMULATED} {caption}"
    return Table("arena", caption, (), tuple(g.capitalize() for g in groups), lines)


def _tasks(scores: Sequence[Scores], group: str) -> list[str]:
    return list(dict.fromkeys(t for s in scores if group in s["arena"] for t in s["arena"][group]["tasks"]))


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _heads(table: Table) -> list[str]:
    """One line of heads; a head under a span is named with it, so that no two are alike."""
    spans = [head.removesuffix(" (%)") for head, n in table.spans for _ in range(n)]
    names = [
        f"{h} {s}" if s else h for h, s in zip(table.columns, spans or [""] * len(table.columns), strict=True)
    ]
    return ["Model", *(["Thinking"] if table.thinking else []), *names]


def _thinking(line: Line) -> str:
    return {True: "yes", False: "no", None: "-"}[line.thinking]


def to_markdown(table: Table) -> str:
    """The table as GitHub Markdown, best values bold."""
    best = table.best()
    heads = _heads(table)
    align = ["---", *([":-:"] if table.thinking else []), *["--:"] * len(table.columns)]
    rows = [heads, align]
    for line in table.lines:
        name = escape_markdown(line.name) + (" \\*" if line.published else "")
        cells = [_value(v) for v in line.values]
        if not line.published:
            cells = [
                f"**{c}**" if v is not None and round(v, 2) == b else c
                for c, v, b in zip(cells, line.values, best, strict=True)
            ]
        rows.append([name, *([_thinking(line)] if table.thinking else []), *cells])
    note = f"\n\\* {_PUBLISHED}.\n" if any(x.published for x in table.lines) else ""
    return f"**{escape_markdown(table.caption)}**\n\n{_lines(rows)}{note}"


def to_latex(table: Table) -> str:
    """The table as a LaTeX float for `booktabs`, best values bold."""
    best, lead = table.best(), 2 if table.thinking else 1
    heads = " & ".join(
        ["Model", *(["Thinking"] if table.thinking else []), *map(escape_latex, table.columns)]
    )
    lines = [
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape_latex(table.caption)}}}",
        rf"\label{{tab:{table.id}}}",
        rf"\begin{{tabular}}{{l{'c' * (lead - 1)}{'r' * len(table.columns)}}}",
        r"\toprule",
    ]
    if table.spans:
        over = [rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(head)}}}" for head, n in table.spans]
        lines.append(" & ".join([*[""] * lead, *over]).strip() + r" \\")
        start, rules = lead + 1, []
        for _, n in table.spans:
            rules.append(rf"\cmidrule(lr){{{start}-{start + n - 1}}}")
            start += n
        lines.append(" ".join(rules))
    lines += [rf"{heads} \\", r"\midrule"]
    ruled = False
    for line in table.lines:
        if line.published and not ruled and lines[-1] != r"\midrule":
            lines.append(r"\midrule")
        ruled = ruled or line.published
        cells = ["--" if v is None else f"{v:.2f}" for v in line.values]
        if not line.published:
            cells = [
                rf"\textbf{{{c}}}" if v is not None and round(v, 2) == b else c
                for c, v, b in zip(cells, line.values, best, strict=True)
            ]
        name = escape_latex(line.name) + (r"\textsuperscript{*}" if line.published else "")
        thinking = [_thinking(line).replace("-", "--")] if table.thinking else []
        lines.append(" & ".join([name, *thinking, *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if any(x.published for x in table.lines):
        lines += ["", rf"\textsuperscript{{*}} {escape_latex(_PUBLISHED)}."]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """All tables in long form: table, model, thinking, published, metric, value (percent, two decimals)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "model", "thinking", "published", "metric", "value"])
    for table in tables:
        names = _heads(table)[-len(table.columns) :] if table.columns else []
        for line in table.lines:
            for name, value in zip(names, line.values, strict=True):
                if value is not None:
                    told = "yes" if line.published else "no"
                    writer.writerow([table.id, line.name, _thinking(line), told, name, f"{value:.2f}"])
    return out.getvalue()


def write_tables(scores: Sequence[Scores], folder: Path, *, simulated: bool) -> None:
    """Write tables.md, tables.csv and tables.tex into `folder`; the paper's rows beside ours, except beside
    simulated data.
    """
    tables = paper_tables(scores, simulated=simulated, beside=not simulated)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "md": "\n".join(map(to_markdown, tables)),
        "csv": to_csv(tables),
        "tex": "% Needs \\usepackage{booktabs}.\n" + "\n".join(map(to_latex, tables)),
    }
    for kind, text in texts.items():
        (folder / f"tables.{kind}").write_text(text, encoding="utf-8")


def markdown_table(scores: Sequence[Scores]) -> str:
    """One Markdown table for a README: every card's primary score with its interval per model, N, videos and
    floor, then the Arena Scores with their lift and the share of answers in the asked form. A dagger marks
    fewer than six videos.
    """
    cards: dict[str, Any] = {c["id"]: c for s in reversed(scores) for c in s["cards"]}
    rows = [
        ["task (primary metric)", "N / videos", "floor", *(escape_markdown(s["name"]) for s in scores)],
        ["---", "--:", "--:", *["--:"] * len(scores)],
    ]
    for card in sorted(cards.values(), key=lambda c: ("public", "external", "extra").index(c["group"])):
        mine = [next((c for c in s["cards"] if c["id"] == card["id"]), None) for s in scores]
        few = "\u2020" if card["videos"] < MIN_VIDEOS else ""
        rows.append(
            [
                escape_markdown(f"{card['title']} ({card['primary']})"),
                f"{card['n']} / {card['videos']}{few}",
                _short(card["floor"]),
                *(_interval(c["metrics"][c["primary"]] if c else None) for c in mine),
            ]
        )
    for group in ("public", "external"):
        arenas = [s["arena"].get(group) for s in scores]
        if any(arenas):
            floors = {_short(a["floor"]) for a in arenas if a}
            floor = floors.pop() if len(floors) == 1 else ""
            rows.append([f"Arena {group}", "", floor, *(_interval(a) for a in arenas)])
            rows.append([f"lift {group}", "", "", *(_short(a["lift"], 2) if a else "-" for a in arenas)])
    for title, groups in (("public sets", ("public", "extra")), ("external sets", ("external",))):
        chosen = [[c for c in s["cards"] if c["group"] in groups] for s in scores]
        if all(chosen):
            totals = [sum(c["n"] for c in mine) for mine in chosen]
            valid = [sum(c["n"] * c["valid_format"] for c in mine) for mine in chosen]
            shares = [_short(100 * v / n) for v, n in zip(valid, totals, strict=True)]
            rows.append([f"valid format, {title}", str(totals[-1]), "", *shares])
    return _lines(rows)


def reasoning_table(found: Mapping[str, Any]) -> str:
    """What is known of one model's traces as Markdown: a table per dataset and task of the metrics under
    "reasoning" (`reasoning_metrics.reasoning_scores`), one of "statements" (`statements.score_rows`) and one
    of "probes" (`probes.probe_scores`).
    """
    parts = []
    for group in found.get("reasoning", {}).get("groups", ()):
        rows = [["metric", "value", "n"], ["---", "--:", "--:"]]
        for name, score in group["metrics"].items():
            if score["n"]:
                rows.append([name.replace("_", " "), _interval(score), str(score["n"])])
        head = (
            f"**{escape_markdown(group['dataset'])}, {group['task'].replace('_', ' ')}**, {group['n']} traces"
        )
        parts.append(f"{head}\n\n{_lines(rows)}")
    if "statements" in found:
        said = found["statements"]
        rows = [["metric", "value"], ["---", "--:"]]
        rows += [[n.replace("_", " "), _short(v)] for n, v in shown(said["metrics"]).items()]
        head = f"**Statements against the simulated scene**, {said['traces']} traces"
        parts.append(f"{head}\n\n{_lines(rows)}")
    if "probes" in found:
        rows = [
            ["probe", "n", "answer changed", "over its floor", "to wrong", "to right"],
            ["---", *["--:"] * 5],
        ]
        for kind, body in found["probes"]["probes"].items():
            cells = [_interval(body[k]) for k in ("changed", "excess", "to_wrong", "to_right")]
            rows.append([kind.replace("_", " "), str(body["n"]), *cells])
        parts.append(f"**Causal probes**, percent of answers\n\n{_lines(rows)}")
    return "\n".join(parts)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(r)} |" for r in rows) + "\n"


def _short(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(score: Any) -> str:
    if not score or score["value"] is None:
        return "-"
    if score["low"] is None or score["high"] is None:
        return _short(score["value"])
    return f"{score['value']:.1f} [{score['low']:.1f}, {score['high']:.1f}]"


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def escape_latex(text: str) -> str:
    """The text as LaTeX text; line breaks become spaces."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def escape_markdown(text: str) -> str:
    """The text inside a Markdown table cell: no markup, no new cell, no HTML."""
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
