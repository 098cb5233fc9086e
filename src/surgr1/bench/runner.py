"""Predictions: ask an engine every sample's question, write one JSON line per answer, continue where a killed
run stopped.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from surgr1.corpora.grid import PreparedImage, scale_boxes_in_text
from surgr1.corpora.questions import sample_prompt
from surgr1.corpora.schema import Sample
from surgr1.engines.types import Engine, Request, Sampling
from surgr1.ontology.errors import SurgR1Error
from surgr1.reasoning.answers import extract, spec_for
from surgr1.reasoning.trace import parse


class PredictionError(SurgR1Error):
    """A predictions file that cannot be read."""


def read_predictions(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines of a predictions file; a last line cut off by a kill is left out. Raises
    PredictionError.
    """
    if not path.is_file():
        raise PredictionError(f"{path}: no such predictions; run `surgr1 bench run` first")
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise PredictionError(f"{path}:{number}: not JSON: {error}") from error


def predict(
    samples: Iterable[Sample],
    images: Mapping[str, PreparedImage],
    engine: Engine,
    out: Path,
    *,
    reasoning: bool,
    sampling: Sampling,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Answer every sample and append to `out` (JSON lines, fields in `prediction_row`). Answered samples are
    skipped, failed ones asked again.

    Returns the number of predictions in the file. `images` maps sample ids to prepared images.
    """
    samples = list(samples)
    by_id = {s.sample_id: s for s in samples}
    kept = (
        [r for r in read_predictions(out) if r["sample_id"] in by_id and r["finish_reason"] != "error"]
        if out.is_file()
        else []
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
    part.replace(out)
    answered = {r["sample_id"] for r in kept}
    requests = []
    for s in samples:
        if s.sample_id not in answered:
            requests.append(
                Request(
                    s.sample_id,
                    sample_prompt(s, reasoning=reasoning),
                    (images[s.sample_id].path,),
                    s.policy,
                )
            )
    done = len(answered)
    with out.open("a", encoding="utf-8") as file:
        for request, completions in engine.generate(requests, sampling) if requests else ():
            row = prediction_row(
                by_id[request.request_id], images[request.request_id], completions[0], reasoning=reasoning
            )
            file.write(json.dumps(row) + "\n")
            file.flush()
            done += 1
            if progress:
                progress(done, len(samples))
    return done


def prediction_row(
    sample: Sample, image: PreparedImage, completion: Any, *, reasoning: bool
) -> dict[str, Any]:
    """One prediction: who, truth, raw text, canonical answer (boxes in pixels of the stored picture),
    outcome, format, cost.
    """
    parsed = parse(completion.text, finish_reason=completion.finish_reason)
    found = extract(parsed, spec_for(sample.task, sample.options, sample.dataset))
    value = found.value
    if value is not None:
        value = scale_boxes_in_text(
            value, (image.width, image.height), (image.original_width, image.original_height)
        )
    valid = parsed.is_format(sample.level) if reasoning else parsed.answer_blocks == 1 and not parsed.trailing
    return {
        "sample_id": sample.sample_id,
        "dataset": sample.dataset,
        "centre": sample.centre,
        "video": sample.video,
        "frame": sample.frame,
        "task": str(sample.task),
        "focus": sample.focus,
        "question": sample.question,
        "answer": sample.answer,
        "options": list(sample.options),
        "image": str(image.path),
        "size": [image.original_width, image.original_height],
        "text": completion.text,
        "prediction": value,
        "outcome": str(found.outcome),
        "rung": found.rung,
        "valid_format": valid,
        "finish_reason": completion.finish_reason,
        "tokens_in": completion.tokens_in,
        "tokens_out": completion.tokens_out,
        "latency_s": completion.latency_s,
        "model": completion.model,
    }
