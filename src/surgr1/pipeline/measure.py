"""From a file of predictions to what is known of them: `scores.json`, for reasoning also `reasoning.json`,
on simulated frames also `statements.json`. Needs nothing but the predictions file, and the simulated truth
where there is one.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from surgr1.bench.predictions import read_predictions
from surgr1.bench.reasoning_metrics import (
    Cooccurrence,
    has_trace,
    read_cooccurrence,
    reasoning_scores,
)
from surgr1.bench.reduction import Row
from surgr1.bench.scoring import score, write_scores
from surgr1.bench.statements import score_rows
from surgr1.bench.statistics import DRAWS
from surgr1.bench.truth import read_truth
from surgr1.pipeline.manifest import write_json

_TRAINED = "cooccurrence.json"
"""Which tools the training frames show in which phase, beside the predictions of a run."""


def measure(
    predictions: Path,
    *,
    name: str,
    draws: int = DRAWS,
    seed: int = 0,
    seen_centres: Collection[str] | None = None,
    price: tuple[float, float] | None = None,
    cooccurrence: Cooccurrence | None = None,
    truth: Path | None = None,
) -> dict[str, Any]:
    """Score the file, write the results beside it and return the scores. `truth` is a simulation's truth
    folder. Raises PredictionError, ScoringError.
    """
    folder = predictions.parent
    rows: list[Row] = list(read_predictions(predictions))
    if cooccurrence is not None:
        cooccurrence.write(folder / _TRAINED)
    scores = score(rows, name=name, draws=draws, seed=seed, seen_centres=seen_centres, price=price)
    found = reasoning(rows, folder, draws=draws, seed=seed, truth=truth)
    for part, body in found.items():
        write_json(folder / f"{part}.json", body)
    write_scores(folder / "scores.json", scores)
    return scores


def reasoning(
    rows: list[Row], folder: Path, *, draws: int = DRAWS, seed: int = 0, truth: Path | None = None
) -> dict[str, dict[str, Any]]:
    """What is known of the rows' traces: "reasoning" against labels, with how plausible the tools make a
    phase where the training's table lies in `folder`; "statements" against the simulated scene where its
    truth is given. Empty without a trace.
    """
    if not any(has_trace(r) for r in rows):
        return {}
    trained = folder / _TRAINED
    cooccurrence = read_cooccurrence(trained) if trained.is_file() else None
    found = {"reasoning": reasoning_scores(rows, cooccurrence, draws=draws, seed=seed)}
    if truth is not None:
        found["statements"] = score_rows(rows, read_truth(truth))
    return found
