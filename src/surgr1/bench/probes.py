"""Causal probes: does the answer rest on the written reasoning, and on the picture? (evaluation.md B8.)

A fixed, hash-chosen subset of predictions is asked again with one thing changed; the share of answers that
change is reported:

    identity    the model's own trace, answer forced: the floor of the three forced probes below
    level1      the trace cut off after Level 1, answer forced (where more levels follow)
    level2      the trace cut off after Level 2, answer forced (likewise)
    tool_swap   one tool of Level 1 replaced throughout the trace, answer forced
    repeat      asked again from scratch, unchanged: the floor of the two picture probes below
    blank       asked again with an even grey picture of the same size and mean brightness
    image_swap  asked again with a frame of another video, of another answer where there is one

Forcing: the request's prefix is the trace up to and including "<answer>". An answer that survives level1 and
tool_swap does not rest on the written reasoning; one that survives blank does not rest on the picture.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageStat

from surgr1.bench.metrics.base import defined
from surgr1.bench.predictions import judge, main_rows, prompt_sha
from surgr1.bench.reasoning_metrics import (
    Array,
    Row,
    agree,
    has_trace,
    is_answered,
    is_correct,
    per_cluster,
    summary,
)
from surgr1.bench.runner import Asking, request_of
from surgr1.bench.statistics import DRAWS, interval_warning, resampled_sums
from surgr1.bench.trace_words import affirmed_names, lexicon
from surgr1.corpora.grid import PreparedImage, open_image
from surgr1.corpora.schema import Labels, Policy, Sample
from surgr1.engines.ledger import request_key
from surgr1.engines.types import Completion, Engine, Request, Sampling
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.procedures import load_procedure, procedure_names
from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import normalise
from surgr1.reasoning.trace import ParsedTrace, parse

Kind = Literal["identity", "level1", "level2", "tool_swap", "repeat", "blank", "image_swap"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FLOORS: Mapping[Kind, Kind] = {
    "level1": "identity",
    "level2": "identity",
    "tool_swap": "identity",
    "blank": "repeat",
    "image_swap": "repeat",
}
"""With what each probe is compared: the same request with nothing changed."""
_STRICTNESS: tuple[Policy, ...] = get_args(Policy)


class ProbeError(SurgR1Error):
    """Predictions that cannot be probed, or a damaged file of probes."""


def select_rows(rows: Iterable[Row], n: int = 200, seed: int = 0) -> list[Row]:
    """Up to `n` rows with a trace, chosen by a hash of sample and `seed`: whatever a model wrote, every model
    is probed on the same questions.
    """
    kept = [r for r in main_rows(rows) if has_trace(r)]
    return sorted(kept, key=lambda r: _digest(seed, r["sample_id"]))[:n]


def probe_requests(
    rows: Sequence[Row], kind: Kind, cache: Path, asking: Asking | None = None
) -> list[Request]:
    """The requests of one probe for the rows that it applies to, with ids "<sample_id>:<kind>".

    Only rows with an answer are probed; the forced probes also need closed think tags, one answer block and,
    to be cut off, the levels' headings. `cache` takes the grey pictures. `asking` is how the rows were asked.
    A swapped picture brings its own policy: the stricter one holds.

    Raises ProbeError when a row's prompt cannot be rebuilt, ImageError when its picture is gone.
    """
    found: list[Request] = []
    for row in rows:
        if not is_answered(row):
            continue
        request = replace(_request(row, asking or Asking()), request_id=f"{row['sample_id']}:{kind}")
        changed: Request | None = request
        if kind == "blank":
            changed = replace(request, images=(_blank(request.images[0], cache),))
        elif kind == "image_swap":
            changed = _with_picture(request, _donor(row, rows))
        elif kind != "repeat":
            prefix = _prefix(row, kind)
            changed = None if prefix is None else replace(request, prefix=prefix)
        if changed:
            found.append(changed)
    return found


def _request(row: Row, asking: Asking) -> Request:
    """The request that the row answers, rebuilt from its facts."""
    if not row["image"] or row["grid"] is None or row["size"] is None:
        raise ProbeError(
            f"{row['sample_id']}: image, size and grid are needed to ask again; add them to the row"
        )
    image = PreparedImage(Path(row["image"]), *row["grid"], *row["size"])
    sample = Sample(
        sample_id=row["sample_id"],
        dataset=row["dataset"],
        centre=row["centre"],
        procedure=row["procedure"],
        canonical_video="",
        video=row["video"],
        frame=row["frame"],
        seconds=row["seconds"],
        image=row["image"],
        width=row["size"][0],
        height=row["size"][1],
        task=Task(row["task"]),
        question=row["question"],
        options=tuple(row["options"]),
        protocol=row["protocol"],
        focus=row["focus"],
        answer=row["answer"],
        labels=Labels(),
        split="",
        role="test",
        policy=row["policy"],
        licence="",
    )
    request = request_of(sample, image, asking, reasoning=True)
    if row["prompt_sha"] and row["prompt_sha"] != prompt_sha(request):
        raise ProbeError(
            f"{row['sample_id']}: was asked in another form than `asking` describes; give the probes the one"
            " that the predictions were made with"
        )
    return request


# --- The changes ---


def _with_picture(request: Request, donor: Row | None) -> Request | None:
    if donor is None:
        return None
    policy = max(request.policy, donor["policy"], key=_STRICTNESS.index)
    return replace(request, images=(Path(donor["image"]),), policy=policy)


def _prefix(row: Row, kind: Kind) -> str | None:
    """The beginning of the answer up to "<answer>", changed; None where the probe does not apply."""
    text = row["text"]
    parsed = parse(text, finish_reason=row["finish_reason"])
    closed = text.lower().rfind("</think>")
    opening = re.compile(r"\s*<answer>", re.IGNORECASE).match(text, closed + len("</think>"))
    if not parsed.has_think or parsed.answer_blocks != 1 or not parsed.levels or opening is None:
        return None
    if kind == "identity":
        return str(text[: opening.end()])
    if kind == "tool_swap":
        return _swapped(row, parsed, text[: opening.end()])
    level = {"level1": 1, "level2": 2}[kind]
    if parsed.headed[: level + 1] != tuple(range(1, level + 2)):
        return None
    at = text.find(parsed.opener) + len(parsed.opener) if parsed.opener else text.lower().find("<think>")
    for k in range(1, level + 1):
        at = text.find(parsed.levels[k], at)
        if at < 0:  # a heading came twice: its texts were joined
            return None
        at += len(parsed.levels[k])
    return str(text[:at] + text[closed : opening.end()])


def _swapped(row: Row, parsed: ParsedTrace, prefix: str) -> str | None:
    """The prefix with one tool of Level 1 replaced, one of the answer's where Level 1 names any, by a tool of
    the vocabulary that the trace does not mention. Its looks, where worded as in the ontology, go with it.
    """
    tools = lexicon(row["dataset"], row["procedure"], "tool")
    named = affirmed_names(parsed.levels.get(1, ""), tools)
    named = named & affirmed_names(row["prediction"], tools) or named
    # One pattern for all tools, longest spelling first: the grasper in "bipolar grasper" is none.
    spellings = "|".join(r"[\s_\-]+".join(s.split()) for s in sorted(tools, key=len, reverse=True))
    pattern = re.compile(
        rf"(?<!\w)(?:(?P<article>an?)(?P<gap>\s+))?(?P<tool>{spellings})(?!\w)", re.IGNORECASE
    )
    mentioned = {tools[normalise(m["tool"])] for m in pattern.finditer(prefix)} if tools else set()
    # A bag is listed among the tools, but nobody works with it.
    free = set(tools.values()) - mentioned - {"specimen bag"}
    if not named or not free:
        return None
    old = min(named, key=lambda t: _digest(row["sample_id"], t))
    new = min(free, key=lambda t: _digest(row["sample_id"], t))

    def renamed(match: re.Match[str]) -> str:
        spelling = normalise(match["tool"])
        if tools[spelling] != old:
            return match[0]
        name = f"{new}s" if spelling == f"{old}s" and not new.endswith("s") else new
        if match["tool"][0].isupper():
            name = name[0].upper() + name[1:]
        if not match["article"]:
            return name
        return match["article"][0] + ("n" if name[0].lower() in "aeiou" else "") + match["gap"] + name

    prefix = pattern.sub(renamed, prefix)
    if row["procedure"] in procedure_names():
        procedure = load_procedure(row["procedure"])
        before, after = procedure.entity(old), procedure.entity(new)
        if before and after:
            prefix = prefix.replace(before.shape, after.shape).replace(before.texture, after.texture)
    return prefix


def _blank(path: Path, cache: Path) -> Path:
    """An even picture of the same size in the mean grey of `path`, made once."""
    picture = open_image(path)
    grey = round(ImageStat.Stat(picture.convert("L")).mean[0])
    target = cache / f"grey-{picture.width}x{picture.height}-{grey}.png"
    if not target.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        Image.new("RGB", picture.size, (grey, grey, grey)).save(part, format="PNG")
        part.replace(target)
    return target


def _donor(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row whose frame is shown instead: same question and picture size, another video, another answer if
    possible.
    """
    kin = ("dataset", "task", "focus", "grid")
    others = [r for r in rows if r["video"] != row["video"] and all(r[k] == row[k] for k in kin)]
    return min(
        others,
        key=lambda r: (
            agree(r["answer"], row["answer"], Task(row["task"])),
            _digest(row["sample_id"], r["sample_id"]),
        ),
        default=None,
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()


# --- The scores ---

_COLUMNS = ("n", "changed", "to_wrong", "to_right", "paired", "paired_changed", "floor_changed")


def probe_scores(
    rows: Sequence[Row],
    answers: Mapping[Kind, Mapping[str, Row]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Answer-change rates of every probe, in percent of the answers it got.

    `answers` are judged rows by probe and sample id; failed requests are left out and counted. Returns
      {"selected": rows, "probes": {kind: {"n", "videos", "failed", "warnings",
        "changed", "to_wrong", "to_right", "floor", "excess": {"value", "low", "high"}}}}
    with intervals from resampled videos. An answer that can no longer be read has changed. `floor` is the
    change rate of the probe's `FLOORS` on the rows that have both, `excess` the paired difference to it; null
    for the floors themselves.
    """
    probes: dict[str, Any] = {}
    for kind, given in answers.items():
        mine = [r for r in rows if r["sample_id"] in given]
        asked = [r for r in mine if given[r["sample_id"]]["finish_reason"] != "error"]
        body: dict[str, Any] = {
            "n": len(asked),
            "videos": 0,
            "failed": len(mine) - len(asked),
            "warnings": [],
        }
        nothing = dict.fromkeys(("value", "low", "high"))
        body |= dict.fromkeys(("changed", "to_wrong", "to_right", "floor", "excess"), nothing)
        probes[kind] = body
        if not asked:
            continue
        floor = answers.get(FLOORS[kind], {}) if kind in FLOORS else {}
        parts = [_part(r, given[r["sample_id"]], floor.get(r["sample_id"])) for r in asked]
        videos, strata, stamp = per_cluster(asked, parts)
        resampled = resampled_sums(videos, draws, seed, strata)
        warning = interval_warning(len(videos), stamp)
        body |= {"videos": len(videos), "warnings": [warning] if warning else []}
        body |= {name: summary(_rate(name, "n"), videos, resampled, strata) for name in _COLUMNS[1:4]}
        if kind in FLOORS:
            body["floor"] = summary(_rate("floor_changed", "paired"), videos, resampled, strata)
            body["excess"] = summary(_excess, videos, resampled, strata)
    return {"selected": len(rows), "probes": probes}


def _part(row: Row, given: Row, floor: Row | None) -> Array:
    """One row's statistics, in the order of `_COLUMNS`."""
    changed = _changed(row, given)
    before, after = is_correct(row), is_correct(given)
    paired = floor is not None and floor["finish_reason"] != "error"
    floor_changed = floor is not None and paired and _changed(row, floor)
    values = (
        1,
        changed,
        before and not after,
        after and not before,
        paired,
        paired and changed,
        floor_changed,
    )
    return np.asarray(values, dtype=np.float64)


def _changed(row: Row, given: Row) -> bool:
    answer = given["prediction"] if is_answered(given) else None
    return not agree(answer, row["prediction"], Task(row["task"]))


def _rate(above: str, below: str) -> Callable[[Array], Array]:
    a, b = _COLUMNS.index(above), _COLUMNS.index(below)
    return lambda s: defined(s[..., a], s[..., b])


def _excess(s: Array) -> Array:
    return _rate("paired_changed", "paired")(s) - _rate("floor_changed", "paired")(s)


# --- A run ---


def run_probes(
    rows: Iterable[Row],
    engine: Engine,
    sampling: Sampling,
    out: Path,
    *,
    n: int = 200,
    seed: int = 0,
    kinds: Sequence[Kind] = KINDS,
    asking: Asking | None = None,
    draws: int = DRAWS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Select rows, ask every probe's requests, write `<out>/probes.jsonl` as the answers arrive, return
    `probe_scores`.

    A line holds {"key", "kind", "sample_id", "text" (prefix and continuation), "finish_reason", "error",
    "prediction", "outcome"}. The same call continues a killed run: lines whose key (hash of model, prompt,
    prefix, picture, sampling) is asked for are kept, failed ones asked again. Each request carries its
    policy, which the engine's guard reads. Raises ProbeError when the rows are another model's.
    """
    chosen = select_rows(rows, n, seed)
    others = sorted({r["model"] for r in chosen} - {engine.model, ""})
    if others:
        raise ProbeError(
            f"the predictions are of {', '.join(others)}, the engine runs {engine.model}; probe one"
        )
    sampling = replace(sampling, n=1, first=0)
    by_id = {r["sample_id"]: r for r in chosen}
    kind_of: dict[str, Kind] = {}
    requests: dict[str, Request] = {}
    for kind in kinds:
        for request in probe_requests(chosen, kind, out / "grey", asking):
            kind_of[request.request_id] = kind
            requests[request.request_id] = request
    keys = {name: request_key(engine.model, request, sampling) for name, request in requests.items()}
    path = out / "probes.jsonl"
    kept = {
        name: line
        for line in _read(path)
        if keys.get(name := f"{line['sample_id']}:{line['kind']}") == line["key"]
        and line["finish_reason"] != "error"
    }
    answers: dict[Kind, dict[str, Row]] = {kind: {} for kind in kinds}

    def line_of(name: str, text: str, finish_reason: str, error: str) -> str:
        kind, row = kind_of[name], by_id[name.rpartition(":")[0]]
        given = judge({**row, "text": text, "finish_reason": finish_reason, "error": error})
        answers[kind][row["sample_id"]] = given
        fields = ("sample_id", "text", "finish_reason", "error", "prediction", "outcome")
        return json.dumps({"key": keys[name], "kind": kind} | {k: given[k] for k in fields}) + "\n"

    out.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(
        "".join(line_of(k, v["text"], v["finish_reason"], v["error"]) for k, v in kept.items()),
        encoding="utf-8",
    )
    part.replace(path)
    missing = [request for name, request in requests.items() if name not in kept]
    done = len(kept)
    with path.open("a", encoding="utf-8") as file:
        for request, completions in engine.generate(missing, sampling) if missing else ():
            completion: Completion = completions[0]
            file.write(
                line_of(
                    request.request_id,
                    request.prefix + completion.text,
                    completion.finish_reason,
                    completion.error,
                )
            )
            file.flush()
            done += 1
            if progress:
                progress(done, len(requests))
    return probe_scores(chosen, answers, draws=draws, seed=seed)


def _read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of an earlier run; a last one cut off by a kill is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            body = json.loads(line)
            lines.append({k: body[k] for k in ("key", "kind", "sample_id", "text", "finish_reason", "error")})
        except (ValueError, KeyError, TypeError) as error:
            raise ProbeError(f"{path}:{number}: not a line of probes ({error}); delete the file") from error
    return lines
