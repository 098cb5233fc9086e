"""A whole simulated world: several native trees from one plan, both cores, resumable per video."""

import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgr1.corpora.datasets import dataset
from surgr1.corpora.processes import interrupts_blocked
from surgr1.ontology.errors import SurgR1Error
from surgr1.ontology.vocabularies import layout_of
from surgr1.simulator.centres import CENTRES
from surgr1.simulator.operations import PROCEDURES, Operation, simulate_operation, simulate_scenario
from surgr1.simulator.truth import FOLDER, write_truth
from surgr1.simulator.writers import NOTICE, finish_tree, layouts, scenario_of, write_video

_FORM = 3
"""What a state file holds; a world written in an older form is written anew. 2: with the frames'
truth; 3: with what an adapter must read of them."""


class SimulationError(SurgR1Error):
    """A plan that cannot be written: unknown centre, full disk, killed worker."""


class Tree(BaseModel):
    """One simulated dataset. Video numbers follow the official splits of the real one; `seconds` is the
    length of each operation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(pattern=r"^sim-")
    centre: str
    seconds: int = Field(40, ge=12)
    train: tuple[int, ...] = ()
    val: tuple[int, ...] = ()
    test: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.centre not in CENTRES:
            raise ValueError(f"unknown centre {self.centre!r}; known: {', '.join(CENTRES)}")
        if layout_of(self.dataset) not in layouts():
            raise ValueError(f"no writer for {self.dataset!r}; layouts: {', '.join(layouts())}")
        return self

    @property
    def layout(self) -> str:
        return layout_of(self.dataset)

    @property
    def split(self) -> dict[str, tuple[int, ...]]:
        return {r: n for r, n in (("train", self.train), ("val", self.val), ("test", self.test)) if n}

    @property
    def videos(self) -> tuple[int, ...]:
        return self.train + self.val + self.test


class SimPlan(BaseModel):
    """What to simulate. Trees of one family share operations by video number, as the real datasets do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    trees: tuple[Tree, ...]


_CHOLEC_TRAIN = (1, 2, 4, 5, 13, 15, 18, 22, 23, 25, 26, 27)


def default_plan(size: Literal["smoke", "demo"]) -> SimPlan:
    """The two built-in sizes. Training videos shared by Cholec80 and CholecT50 are in both official training
    splits, test videos in both test splits, so that the leakage guard has nothing to object to."""
    small = size == "smoke"

    def take(numbers: tuple[int, ...], smoke: int) -> tuple[int, ...]:
        return numbers[:smoke] if small else numbers

    external = {"test": take((1, 2, 3, 4, 5, 6), 2)}
    length = 14 if small else 40
    return SimPlan(
        trees=(
            Tree(
                dataset="sim-cholec80",
                centre="sim-strasbourg-public",
                seconds=length,
                train=take(_CHOLEC_TRAIN, 2),
                test=take((41, 42, 51, 73, 74, 80), 2),
            ),
            Tree(
                dataset="sim-cholect50",
                centre="sim-strasbourg-public",
                seconds=length,
                train=take(_CHOLEC_TRAIN, 2),
                val=take((8, 12), 0),
                test=take((42, 51, 73, 74, 80, 111), 2),
            ),
            Tree(
                dataset="sim-endoscapes",
                centre="sim-london-public",
                seconds=length * 3,
                train=take((11, 12, 13, 14, 15, 16, 17, 18, 19, 20), 2),
                val=take((122, 123), 1),
                test=take((162, 163, 164, 165, 166, 167), 2),
            ),
            Tree(
                dataset="sim-sar-rarp50",
                centre="sim-london-public",
                seconds=length + 20,
                train=take((1, 2, 3, 4, 5, 6, 7, 8, 9, 10), 2),
                test=take((41, 42, 43, 44, 45, 46), 2),
            ),
            Tree(
                dataset="sim-multibypass140",
                centre="sim-bern-public",
                seconds=length + 14,
                train=take((1, 6, 8, 10, 14, 18, 20, 21, 23, 24), 2),
                val=take((3, 12), 1),
                test=take((2, 4, 7, 15, 16, 17), 2),
            ),
            Tree(dataset="sim-west-china", centre="sim-west-china", seconds=length * 2, **external),
            Tree(dataset="sim-nanfang", centre="sim-nanfang", seconds=length * 2, **external),
            Tree(dataset="sim-renji", centre="sim-renji", seconds=length, **external),
            Tree(dataset="sim-strasbourg", centre="sim-strasbourg", seconds=length, **external),
            Tree(dataset="sim-cuhk", centre="sim-cuhk", seconds=length + 20, **external),
        )
    )


@dataclass(frozen=True)
class SimReport:
    """What `simulate` wrote now (finished videos of an earlier run are not counted in the rate)."""

    frames: int
    rendered: int
    seconds: float

    @property
    def frames_per_second(self) -> float:
        return self.rendered / self.seconds if self.seconds else 0.0


def operation_seed(plan_seed: int, tree: Tree, number: int) -> int:
    """Public trees of one family share operations by number; every other tree has its own."""
    family = dataset(tree.layout).family
    # Names from before there were families, which the demo's operations are drawn by.
    family = {"cholec": "cholec80", "endoscapes": "sim-endoscapes"}.get(family, family)
    if not family or tree.dataset != f"sim-{tree.layout}":
        family = tree.dataset
    return int.from_bytes(hashlib.sha256(f"{plan_seed}|{family}|{number}".encode()).digest()[:4], "big")


def simulate_video(tree: Tree, number: int, plan_seed: int) -> Operation:
    """The operation that a tree's video shows."""
    name, centre = scenario_of(tree.layout), CENTRES[tree.centre]
    make = simulate_operation if name in PROCEDURES else simulate_scenario
    return make(name, seed=operation_seed(plan_seed, tree, number), centre=centre, seconds=tree.seconds)


def _write_one(root: Path, state: Path, tree: Tree, number: int, plan_seed: int) -> int:
    """Write one video (in a worker process); its state file, written last, says it is whole."""
    centre = CENTRES[tree.centre]
    operation = simulate_video(tree, number, plan_seed)
    try:
        found = write_video(tree.layout, root, number, operation, centre, tree.split)
        part = state.with_suffix(".part")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(state)
    except OSError as error:
        raise SimulationError(
            f"{root}: writing video {number} failed: {error}; free space and run again"
        ) from error
    return int(found["frames"])


def simulate(
    out: Path, plan: SimPlan, *, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> SimReport:
    """Write every tree of the plan under `out`/<dataset> and what its frames show to
    `out`/truth/<dataset>.parquet (`truth.py`). Finished videos are kept if the plan is the same, else
    everything is redone.
    """
    start = time.monotonic()
    marker, states = out / ".plan.json", out / ".state"
    mark = f"{plan.model_dump_json()}\nform {_FORM}\n"
    if marker.is_file() and marker.read_text(encoding="utf-8") != mark:
        shutil.rmtree(out)
    states.mkdir(parents=True, exist_ok=True)
    marker.write_text(mark, encoding="utf-8")

    jobs = [(tree, n, states / f"{tree.dataset}-{n}.json") for tree in plan.trees for n in tree.videos]
    todo = [job for job in jobs if not job[2].is_file()]
    rendered = 0
    if todo:
        # Spawned, not forked: the parent may hold torch's threads.
        pool = ProcessPoolExecutor(min(workers, len(todo)), mp_context=multiprocessing.get_context("spawn"))
        try:
            with interrupts_blocked():
                futures = [pool.submit(_write_one, out / t.dataset, s, t, n, plan.seed) for t, n, s in todo]
            for done, future in enumerate(as_completed(futures), start=len(jobs) - len(todo) + 1):
                rendered += future.result()
                if progress:
                    progress(done, len(jobs))
        except BrokenProcessPool as error:
            raise SimulationError(
                "a rendering process was killed (out of memory?); run again to continue"
            ) from error
        finally:
            # The videos being written are finished (a second or two), the others are not begun.
            pool.shutdown(cancel_futures=True)
    frames = 0
    for tree in plan.trees:
        videos: dict[int, dict[str, Any]] = {}
        for n in tree.videos:
            videos[n] = json.loads((states / f"{tree.dataset}-{n}.json").read_text(encoding="utf-8"))
            frames += videos[n]["frames"]
        finish_tree(tree.layout, out / tree.dataset, videos, tree.split)
        truth = [row for n in tree.videos for row in videos[n]["truth"]]
        write_truth(out / FOLDER / f"{tree.dataset}.parquet", tree.dataset, truth, NOTICE)
    return SimReport(frames, rendered, time.monotonic() - start)
