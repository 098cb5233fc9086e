"""One self-contained page of a run's training, finished or not: curves of every stage, where a step's time
goes, entropy and w_t over the positions of completions, completions with their tokens shaded by w_t.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgr1.bench import charts
from surgr1.bench.report import read_log, templates
from surgr1.training.grpo import PHASES

SHOWN = 8
_FIRST = ("loss", "reward", "rewards/answer/mean", "rewards/format/mean", "rewards/structure/mean", "entropy")
_HIDDEN = ("step", "epoch", "num_tokens", "seconds/step")


@dataclass(frozen=True)
class StageLog:
    """A stage's title and the folder with its log.jsonl and, of GRPO, its completions."""

    title: str
    folder: Path


def write_page(title: str, stages: Sequence[StageLog], out: Path, *, simulated: bool) -> Path:
    """Write the page to `out` and return it."""
    found = [_stage(s) for s in stages]
    page = (
        templates("surgr1.training")
        .get_template("training.html")
        .render(title=title, simulated=simulated, stages=found)
    )
    part = out.with_suffix(".part")
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    return out


def phases(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean seconds of a GRPO step by phase. The first step, which warms caches, counts if it is alone."""
    rows = [r for r in rows if f"seconds/{PHASES[0]}" in r]
    rows = rows[1:] or rows
    return {p: sum(r[f"seconds/{p}"] for r in rows) / len(rows) for p in PHASES} if rows else {}


def _stage(stage: StageLog) -> dict[str, Any]:
    rows = read_log(stage.folder / "log.jsonl")
    steps = [r for r in rows if r["step"]]
    names = list(
        dict.fromkeys(k for r in steps for k in r if k not in _HIDDEN and not k.startswith("seconds/"))
    )
    names.sort(key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n))
    spent = phases(steps)
    completions = read_completions(stage.folder / "completions")
    return {
        "title": stage.title,
        "facts": _facts(rows, steps),
        "plots": _lines({n: [(r["step"], r[n]) for r in steps if r.get(n) is not None] for n in names}),
        "phases": [{"name": p, "seconds": s, "share": s / sum(spent.values())} for p, s in spent.items()],
        "positions": _lines(
            {
                "entropy (nats)": _over_positions([c["entropies"] for c in completions]),
                "w": _over_positions([c["weights"] for c in completions]),
            }
        ),
        "kept": len(completions),
        "completions": [_shaded(c) for c in _spread(completions)],
    }


def read_completions(folder: Path) -> list[dict[str, Any]]:
    """The completions kept of every step (`rollouts.write_completions`), in order."""
    import pyarrow.parquet as pq

    return [row for path in sorted(folder.glob("step-*.parquet")) for row in pq.read_table(path).to_pylist()]


def _facts(rows: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> str:
    facts = [f"{steps[-1]['step']} steps" if steps else "no step logged yet"]
    if steps and "seconds/step" in steps[-1]:
        facts.append(f"{sum(r['seconds/step'] for r in steps) / len(steps):.2f} s a step")
    trainable = next((r["trainable"] for r in rows if "trainable" in r), None)
    if trainable:
        facts.append("trainable: " + ", ".join(f"{t} {n:,}" for t, n in trainable.items()))
    return "; ".join(facts)


def _lines(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[Any]:
    from markupsafe import Markup

    # What is zero throughout (nothing is clipped on-policy) only takes room.
    told = {name: points for name, points in curves.items() if any(y for _, y in points)}
    return [Markup(p) for name, points in told.items() if (p := charts.line(points, title=name))]


def _over_positions(values: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Mean at every position that at least a quarter of the completions reach."""
    longest = max(map(len, values), default=0)
    columns = ([v[k] for v in values if len(v) > k] for k in range(longest))
    return [(k, sum(c) / len(c)) for k, c in enumerate(columns) if 4 * len(c) >= len(values)]


def _spread(completions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few, from the first step to the last."""
    every = max(1, -(-len(completions) // SHOWN))
    return list(completions[::every])


def _shaded(completion: dict[str, Any]) -> dict[str, Any]:
    top = max(completion["weights"]) or 1.0
    tokens = zip(completion["tokens"], completion["weights"], completion["entropies"], strict=True)
    return completion | {
        "tokens": [
            {"text": t, "weight": w, "entropy": e, "shade": 0.85 * max(w, 0.0) / top} for t, w, e in tokens
        ]
    }
