"""Runs a recipe: stages in order, finished ones skipped, a killed one continued. Each stage's key includes
the keys of what it reads.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from surgr1 import __version__
from surgr1.corpora.fingerprint import files_state
from surgr1.ontology.errors import SurgR1Error
from surgr1.pipeline import stages
from surgr1.pipeline.manifest import (
    Manifest,
    code_commit,
    read_manifest,
    stage_key,
    timestamp,
    write_manifest,
)
from surgr1.pipeline.recipe import Recipe
from surgr1.pipeline.stages import Counts, Run
from surgr1.training.stage import processes


@dataclass(frozen=True)
class Step:
    """One stage of a run: where its manifest lies, what decides its result, what it reads, what does it."""

    name: str
    folder: str
    config: dict[str, Any]
    inputs: tuple[str, ...]
    work: Callable[[Run], Counts]


def _dump(section: BaseModel | None) -> dict[str, Any]:
    return section.model_dump(mode="json") if section is not None else {}


def plan(recipe: Recipe, reviews: str = "") -> list[Step]:
    """The steps of a recipe in order: every training stage is followed by SurgBench. `reviews` stands for
    what reviewers said of this run's traces ("" for nothing).
    """
    reviewed = {"reviews": reviews} if reviews else {}
    steps: list[Step] = []
    if recipe.sim_plan is not None:
        steps.append(Step("simulate", "sim", _dump(recipe.sim_plan), (), stages.simulate))
    sources = {
        "sources": [_dump(s) for s in recipe.sources],
        "isolation": _dump(recipe.isolation),
        "max_rejects": recipe.max_rejects,
        # Simulated trees change with the simulation alone; of real ones a label file may be mended.
        "files": {
            s.dataset: files_state(s)
            for s in recipe.sources
            if not s.dataset.startswith("sim-") and s.root.is_dir()
        },
    }
    steps.append(Step("data", "data", sources, ("simulate",) if steps else (), stages.data))
    answering = {"engine": recipe.generation.engine}
    bench_config = _dump(recipe.bench) | _dump(recipe.images) | {"seed": recipe.seed} | answering
    shared = {"images": _dump(recipe.images), "seed": recipe.seed, "path": str(recipe.model.path)}
    previous: tuple[str, ...] = ("data",)
    trained: list[str] = []

    def add(name: str, config: dict[str, Any], work: Callable[[Run], Counts] | None) -> None:
        nonlocal previous
        if work is not None:
            steps.append(Step(name, name, config | shared, previous, work))
            previous = ("data", name)
        steps.append(
            Step(
                f"bench-{name}",
                f"bench/{name}",
                bench_config | {"stage": name} | shared,
                previous,
                partial(stages.bench, stage=name),
            )
        )
        trained.append(name)

    add("base", _dump(recipe.model.nano), stages.base if recipe.model.nano else None)
    for name in ("sft", "coldstart", "grpo", "refine"):
        section = getattr(recipe, name)
        if section is not None:
            # Stages that ask the policy depend on what answers for it.
            asks = answering if name in ("grpo", "refine") else {}
            written = reviewed if name in ("coldstart", "refine") else {}
            add(name, _dump(section) | asks | written, getattr(stages, name))
    benches = tuple(f"bench-{n}" for n in trained)
    steps[-1] = replace(steps[-1], work=partial(stages.bench, stage=trained[-1], probed=True))
    steps.append(
        Step("report", "report", {"title": recipe.title}, benches, partial(stages.report, stages=trained))
    )
    return steps


def execute(recipe: Recipe, folder: Path, console: Console, *, only: str | None = None) -> dict[str, Counts]:
    """Run the recipe in `folder`. `only` runs one step, whose inputs must be finished; returns the counts of
    every finished step.
    """
    if processes()[1] > 1:
        raise SurgR1Error(
            "a run folder belongs to one process; it starts those that train: name the command in the"
            " recipe's `launcher`"
        )
    run = Run(recipe, folder, console)
    steps = plan(recipe, _reviews(folder / "reviews"))
    if only is not None and only not in {s.name for s in steps}:
        raise SurgR1Error(f"this recipe has no stage {only!r}; it has: {', '.join(s.name for s in steps)}")
    keys: dict[str, str] = {}
    found: dict[str, Counts] = {}
    for step in steps:
        inputs = {name: keys[name] for name in step.inputs}
        keys[step.name] = stage_key(step.name, step.config, inputs)
        place = folder / step.folder
        manifest = read_manifest(place)
        if manifest is not None and manifest.key == keys[step.name]:
            found[step.name] = manifest.counts
            console.print(f"[green]done[/]  {step.name:16} {_line(manifest.counts)}")
            continue
        if only is not None and step.name != only:
            if step.name in _needed(steps, only):
                raise SurgR1Error(
                    f"stage {only} needs {step.name}, which is not finished in {folder}; run it first, or the"
                    " whole recipe"
                )
            continue
        _make_room(place, keys[step.name])
        start = time.monotonic()
        counts = step.work(run)
        seconds = time.monotonic() - start
        write_manifest(
            place,
            Manifest(
                step.name,
                keys[step.name],
                __version__,
                code_commit(),
                inputs,
                step.config,
                counts,
                seconds,
                timestamp(),
            ),
        )
        found[step.name] = counts
        console.print(f"[bold]ran[/]   {step.name:16} {_line(counts)}  [dim]{seconds:.0f} s[/]")
    return found


def _reviews(folder: Path) -> str:
    """A hash of the reviewers' files, "" where there is none."""
    files = sorted(folder.glob("*.jsonl"))
    found = hashlib.sha256()
    for path in files:
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16] if files else ""


def _needed(steps: list[Step], name: str) -> set[str]:
    """Everything a step reads, directly or not."""
    inputs = {s.name: s.inputs for s in steps}
    found: set[str] = set()
    waiting = list(inputs[name])
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += inputs[one]
    return found


_OWN_ROOM = ("sim", "data")
"""Stages that keep what is still right and remake the rest by themselves."""


def _make_room(place: Path, key: str) -> None:
    """Clear a stage folder whose work was begun under another key; work under the same key is kept and
    continued. A teacher's traces have a key of their own (`Run.traces`).
    """
    import shutil

    marker = place / ".key"
    if (
        place.exists()
        and (not marker.is_file() or marker.read_text(encoding="utf-8") != key)
        and place.name not in _OWN_ROOM
    ):
        for child in place.iterdir():
            if child.name == stages.TRACES.name:
                continue
            if child.is_dir():
                shutil.rmtree(child)
            else:
                child.unlink()
    place.mkdir(parents=True, exist_ok=True)
    if place.name not in _OWN_ROOM:
        marker.write_text(key, encoding="utf-8")


def _line(counts: Counts) -> str:
    return "  ".join(f"{k} {v:g}" for k, v in counts.items())
