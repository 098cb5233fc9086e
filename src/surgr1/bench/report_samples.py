"""The samples of a page as side files, so that ten thousand cost the page nothing: an index of coded columns,
chunks of texts that are loaded when a sample is opened, small pictures.

A page opened from disk may not fetch, but may load scripts: every file is a script that hands its JSON to
`surgbench` (templates/samples.js).

    samples/index.js    surgbench.index({...})    see `_index`
    samples/000.js      surgbench.chunk(0, [...]) see `_details`, `CHUNK` samples each
    pictures/00000.jpg  at most `SIDE` pixels wide or high
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgr1.bench.reasoning_metrics import is_correct
from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import spec_for
from surgr1.reasoning.trace import Trace, parse, render

Row = Mapping[str, Any]
CHUNK = 200
SIDE = 480
_SEPARATOR = {"labels": ", ", "triplets": "; "}
_FACTS = {
    "tokens_in": "tokens in",
    "tokens_out": "tokens out",
    "latency_s": "seconds",
    "finish_reason": "ended by",
    "error": "error",
    "model": "model",
    "engine": "engine",
}


@dataclass(frozen=True)
class SampleFiles:
    """What was written: samples, frames with a picture and without one (over the limit or not readable), and
    the datasets among the pictures that may not leave this machine.
    """

    samples: int
    pictures: int
    without: int
    local_only: tuple[str, ...]


def write_samples(
    models: Sequence[Sequence[Row]],
    folder: Path,
    *,
    pictures: int,
    inconsistent: Sequence[frozenset[str]],
) -> SampleFiles:
    """Write the side files of all models' rows (`predictions.read_predictions`) into `folder`; earlier ones
    are replaced.

    The samples are the union of the models' samples. `pictures` bounds how many frames get a picture; they
    are spread over datasets, tasks and verdicts of the last model and chosen by hash. `inconsistent[k]` holds
    the ids of the samples whose trace of model k contradicts itself.
    """
    answers = [{row["sample_id"]: row for row in rows} for rows in models]
    samples = sorted({i: r for found in answers for i, r in found.items()}.values(), key=_place)
    target = folder / "pictures.part"
    _emptied(target)
    drawn = _pictures(samples, answers[-1], target, pictures)
    index = _index(samples, answers, drawn, inconsistent)
    part = folder / "samples.part"
    _emptied(part)
    (part / "index.js").write_text(f"surgbench.index({_script(index)});\n", encoding="utf-8")
    for number, start in enumerate(range(0, len(samples), CHUNK)):
        details = [_details(s, answers) for s in samples[start : start + CHUNK]]
        text = f"surgbench.chunk({number}, {_script(details)});\n"
        (part / f"{number:03d}.js").write_text(text, encoding="utf-8")
    for made in (target, part):
        final = made.with_suffix("")
        if final.exists():
            shutil.rmtree(final)
        made.rename(final)
    local = {s["dataset"] for s in samples if s["policy"] == "local_only" and s["image"] in drawn}
    frames = {_frame(s) for s in samples}
    seen = {_frame(s) for s in samples if s["image"] in drawn}
    return SampleFiles(len(samples), len(seen), len(frames - seen), tuple(sorted(local)))


def _emptied(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _place(row: Row) -> tuple[Any, ...]:
    return row["dataset"], row["video"], row["frame"], row["task"], row["focus"], row["sample_id"]


def _frame(row: Row) -> tuple[Any, ...]:
    return row["dataset"], row["video"], row["frame"]


def _script(value: Any) -> str:
    """JSON that is safe inside a script, whatever a model wrote."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _pictures(
    samples: Sequence[Row], verdicts: Mapping[str, Row], folder: Path, limit: int
) -> dict[str, int]:
    """Small copies of the chosen frames' pictures: path of the original -> number of its file."""
    groups: dict[tuple[str, str, bool], list[Row]] = {}
    for s in samples:
        judged = verdicts.get(s["sample_id"])
        groups.setdefault((s["dataset"], s["task"], judged is not None and is_correct(judged)), []).append(s)
    for members in groups.values():
        members.sort(key=lambda r: hashlib.sha256(r["sample_id"].encode()).hexdigest())
    found: dict[str, int] = {}
    tried: set[str] = set()
    for turn in range(max(map(len, groups.values()), default=0)):
        for key in sorted(groups):
            if len(found) >= limit:
                return found
            path = groups[key][turn]["image"] if turn < len(groups[key]) else ""
            if path and path not in tried:
                tried.add(path)
                if _shrunk(Path(path), folder / f"{len(found):05d}.jpg"):
                    found[path] = len(found)
    return found


def _shrunk(source: Path, out: Path) -> bool:
    """Write a small copy; False for a picture that is gone or broken, which a report must survive."""
    from PIL import Image

    try:
        with Image.open(source) as picture:
            small = picture.convert("RGB")
    except OSError:
        return False
    small.thumbnail((SIDE, SIDE))
    small.save(out, format="JPEG", quality=80)
    return True


class _Codes:
    """Numbers for repeated texts, in order of appearance."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.of.setdefault(text, len(self.of))


def _index(
    samples: Sequence[Row],
    answers: Sequence[Mapping[str, Row]],
    drawn: Mapping[str, int],
    inconsistent: Sequence[frozenset[str]],
) -> dict[str, Any]:
    """Columns over the samples and, per model, over its answers (-1: not asked). Texts are numbers into
    `names`; `size` is [width, height] of the stored picture, in whose pixels boxes are written.
    """
    codes = {key: _Codes() for key in ("dataset", "centre", "task", "video", "text", "outcome", "rung")}
    columns: dict[str, list[Any]] = {
        key: [codes[key](s[key]) for s in samples] for key in ("dataset", "centre", "task", "video")
    }
    columns["frame"] = [s["frame"] for s in samples]
    columns["id"] = [s["sample_id"] for s in samples]
    columns["picture"] = [drawn.get(s["image"], -1) for s in samples]
    columns["size"] = [s["size"] or [0, 0] for s in samples]
    for key in ("focus", "answer"):
        columns[key] = [codes["text"](s[key]) for s in samples]
    columns["labels"] = [[codes["text"](x) for x in _labels(s)] for s in samples]
    models = []
    for found, flags in zip(answers, inconsistent, strict=True):
        rows = [found.get(s["sample_id"]) for s in samples]
        models.append(
            {
                "outcome": [codes["outcome"](r["outcome"]) if r else -1 for r in rows],
                "rung": [codes["rung"](r["rung"] or "none") if r else -1 for r in rows],
                "right": [int(is_correct(r)) if r else -1 for r in rows],
                "prediction": [
                    codes["text"](r["prediction"]) if r and r["prediction"] is not None else -1 for r in rows
                ],
                "inconsistent": [int(s["sample_id"] in flags) for s in samples],
            }
        )
    names = {key: list(c.of) for key, c in codes.items()}
    return {"chunk": CHUNK, "names": names, "samples": columns, "models": models}


def _labels(row: Row) -> list[str]:
    """The labels a reader may filter by: of a list its parts, of a box what was to be found."""
    kind = spec_for(Task(row["task"])).kind
    if kind == "box":
        return [row["focus"]]
    separator = _SEPARATOR.get(kind)
    return row["answer"].split(separator) if separator else [row["answer"]]


def _details(sample: Row, answers: Sequence[Mapping[str, Row]]) -> dict[str, Any]:
    """One sample's question, the frame's labels and, per model, what it wrote (None: not asked)."""
    labels = sample["labels"]
    told = {k: _told(v) for k, v in labels.items() if v is not None and k != "boxes"}
    given = [_given(found.get(sample["sample_id"])) for found in answers]
    return {"question": sample["question"], "labels": told, "answers": given}


def _told(value: Any) -> str:
    if isinstance(value, str):
        return value
    parts = (" ".join(v) if isinstance(v, list | tuple) else str(v) for v in value)
    return "; ".join(parts) or "none"


def _given(row: Row | None) -> dict[str, Any] | None:
    """The levels, and the text as written where the levels and the answer do not already say all of it."""
    if row is None:
        return None
    text = row["text"] or ""
    parsed = parse(text, finish_reason=row["finish_reason"])
    same = render(Trace(parsed.levels, parsed.answer or "")) == text
    facts = {name: row[k] for k, name in _FACTS.items() if row[k]}
    return {
        "levels": parsed.levels,
        "answer": parsed.answer,
        "text": "" if same else text,
        "facts": facts,
    }
