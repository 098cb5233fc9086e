"""Which samples go to the teacher: quotas as in Table 3 of the paper, each drawn from the training samples of
a built corpus so that little is asked twice and nothing rare is left out.

Inside a quota the next sample is always taken for the task that has the fewest so far, there for the class
that has the fewest, the rarest first where several have as many. A class with fewer samples than its share so
gives all it has, and the rest is shared among the others. The order inside a class is fixed: its centres take
turns, in each centre its videos (operations), in each video times far apart from those before.

The class of a sample is its answer, with these exceptions: for sets (triplets, lists of tools or tissues) the
set's rarest element, by the number of the pool's samples that hold it; for boxes what is to be located; for
CVS criteria and quadrants what is asked about, with the answer.

A picture within `distance` bits of one already taken in the same quota (`corpora.near_duplicates`) is left
out and the next sample of its class takes its place. The same picture may be asked another question. Pictures
are hashed only when their turn comes. Flat pictures (black, out of the body) have no hash: all but the first
of a quota count as near-duplicates.

The corpus is read twice: light columns into arrays, then the rows that were chosen. The result depends on the
samples and the seed alone, not on the order of datasets or on the Parquet parts; a quota's draw depends on no
other quota.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from surgr1.corpora.build import corpus_parts, statistics_of
from surgr1.corpora.near_duplicates import DISTANCE
from surgr1.corpora.schema import SAMPLE_SCHEMA, Sample, read_samples
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import layout_of
from surgr1.synthesis.draw import Pictures, PlanError, Pool, draw, read_pool

ROWS, REPORT = "plan.parquet", "plan.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quota(_Part):
    """At most `limit` samples of some datasets and tasks.

    `datasets` are layouts: simulated and hospital twins match by theirs ("sim-cholec80" is "cholec80").
    `only` names the tasks of a dataset that gives fewer than all `tasks`.
    """

    name: str = Field(min_length=1)
    datasets: tuple[str, ...] = Field(min_length=1)
    tasks: tuple[Task, ...] = Field(min_length=1)
    limit: int = Field(ge=1)
    only: Mapping[str, tuple[Task, ...]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for dataset in self.datasets:
            if dataset != layout_of(dataset):
                raise ValueError(f"datasets: {dataset}: expected the layout, {layout_of(dataset)}")
        for dataset, tasks in self.only.items():
            if dataset not in self.datasets or not tasks or not set(tasks) <= set(self.tasks):
                raise ValueError(f"only: {dataset}: expected one of `datasets` with some of `tasks`")
        return self

    def tasks_of(self, dataset: str) -> tuple[Task, ...]:
        """The tasks that a dataset id gives, () where it is no part of this quota."""
        layout = layout_of(dataset)
        if layout not in self.datasets:
            return ()
        return self.only.get(layout, self.tasks)


class Count(_Part):
    """Samples there were, taken, and passed over as near-duplicates. What is left was not needed."""

    pool: int
    taken: int
    duplicates: int


class QuotaReport(_Part):
    """What a quota took. `classes` by task, `videos` are operations (`canonical_video`), `hashed` the number
    of pictures looked at, `flat` the near-duplicates that are flat pictures, `reason` why fewer than `asked`
    were taken ("" where they were not).
    """

    name: str
    asked: int
    pool: int
    taken: int
    duplicates: int
    flat: int
    hashed: int
    shortfall: int
    reason: str
    datasets: Mapping[str, Count]
    classes: Mapping[str, Mapping[str, Count]]
    centres: Mapping[str, Count]
    videos: Mapping[str, Count]


class DatasetReport(_Part):
    """A dataset of the plan. `fingerprint` is the build's (`source.json`)."""

    layout: str
    simulated: bool
    fingerprint: str
    quotas: tuple[str, ...]
    taken: int


class Plan(_Part):
    """What `plan.json` holds. `not_checked` are sentences."""

    seed: int
    distance: int
    asked: int
    taken: int
    quotas: tuple[QuotaReport, ...]
    datasets: Mapping[str, DatasetReport]
    not_checked: tuple[str, ...]


def read_quotas(path: Path) -> tuple[Quota, ...]:
    """The quotas of a YAML file (`quotas:`, a list). Raises PlanError naming the file."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or list(raw) != ["quotas"] or not isinstance(raw["quotas"], list):
            raise PlanError(f"{path}: expected one entry, `quotas`, with a list")
        quotas = tuple(Quota.model_validate(q) for q in raw["quotas"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise PlanError(f"{path}: not a file of quotas: {error}") from error
    try:
        _check_quotas(quotas)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    return quotas


def table_3() -> tuple[Quota, ...]:
    """The paper's quotas: 40,875 samples of seven datasets."""
    return read_quotas(Path(str(files("surgr1.synthesis"))) / "quotas" / "table-3.yaml")


def _check_quotas(quotas: Sequence[Quota]) -> None:
    """A sample must not be drawn twice."""
    owner: dict[tuple[str, Task], str] = {}
    names: set[str] = set()
    if not quotas:
        raise PlanError("quotas: none given")
    for quota in quotas:
        if quota.name in names:
            raise PlanError(f"quota {quota.name!r} stands twice; give each its own name")
        names.add(quota.name)
        for layout in set(quota.datasets):
            for task in set(quota.tasks_of(layout)):
                other = owner.setdefault((layout, task), quota.name)
                if other != quota.name:
                    raise PlanError(
                        f"quotas {other!r} and {quota.name!r} both take {task} of {layout}: its samples could"
                        " be drawn twice; leave it out of one (`only`)"
                    )


def make_plan(
    corpus: Path,
    datasets: Sequence[str],
    quotas: Sequence[Quota],
    out: Path,
    *,
    pictures: Mapping[str, Path] | None,
    seed: int,
    distance: int = DISTANCE,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Choose samples of role "train" of a built corpus and write `out`/plan.parquet (`schema.SAMPLE_SCHEMA`)
    and `out`/plan.json (the report, written last).

    The rows stand in drawn order: in each quota as they were taken, quotas mixed in proportion, so that any
    first part of the plan is a small plan. `pictures` maps datasets to their picture roots (`source.json`'s
    "pictures"); None, or a dataset without one: near-duplicates are not looked for there, and the report says
    so. `workers` are threads that hash pictures. `progress` gets (samples taken, samples asked). Raises
    PlanError, and ImageError where a picture is missing or broken.
    """
    _check_quotas(quotas)
    roots = _picture_roots(pictures, datasets)
    if not 0 <= distance <= 64:
        raise PlanError(f"distance {distance}: expected 0-64 bits")
    builds = {d: _build_of(corpus, d) for d in sorted(set(datasets))}
    asked, done = sum(q.limit for q in quotas), 0
    reports: list[QuotaReport] = []
    rows: list[tuple[float, int, Path, int]] = []
    of_dataset: dict[str, int] = dict.fromkeys(builds, 0)
    with ThreadPoolExecutor(workers) as threads:
        for number, quota in enumerate(quotas):
            mine = [d for d in builds if quota.tasks_of(d)]
            looked = any(d in roots for d in mine)
            pool = read_pool(corpus, mine, quota, seed, images=looked)
            seen = Pictures(pool, roots, distance, quota.limit, threads) if looked else None

            def tick(taken: int, before: int = done) -> None:
                if progress:
                    progress(before + taken, asked)

            taken, passed = draw(pool, quota.limit, seed, seen, tick)
            reports.append(_report(quota, mine, pool, taken, passed, seen))
            done += len(taken)
            for place, sample in enumerate(taken):
                dataset, path = pool.files[pool.file[sample]]
                rows.append(((place + 0.5) / len(taken), number, path, int(pool.row[sample])))
                of_dataset[dataset] += 1
    plan = Plan(
        seed=seed,
        distance=distance,
        asked=asked,
        taken=len(rows),
        quotas=tuple(reports),
        datasets={
            d: DatasetReport(
                layout=layout_of(d),
                simulated=d.startswith("sim-"),
                fingerprint=fingerprint,
                quotas=tuple(q.name for q in quotas if q.tasks_of(d)),
                taken=of_dataset[d],
            )
            for d, fingerprint in builds.items()
        },
        not_checked=_not_checked(builds, quotas, roots),
    )
    rows.sort(key=lambda r: r[:2])
    _write(out, _materialise([(path, row) for _, _, path, row in rows]), plan)
    return plan


def read_plan(out: Path) -> list[Sample]:
    """The chosen samples, in drawn order. Raises PlanError where there is no whole plan."""
    report, path = read_report(out), out / ROWS
    try:
        samples = list(read_samples(path))
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise PlanError(f"{path}: not the rows of a plan ({error}); make the plan again") from error
    if len(samples) != report.taken:
        raise PlanError(f"{path}: {len(samples)} rows, {REPORT} says {report.taken}; make the plan again")
    return samples


def read_report(out: Path) -> Plan:
    """What `plan.json` says. Raises PlanError."""
    path = out / REPORT
    if not path.is_file():
        raise PlanError(f"{path}: no such file; the plan was not made or not finished: make it again")
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise PlanError(f"{path}: not the report of a plan ({error}); make the plan again") from error


def _picture_roots(pictures: Mapping[str, Path] | None, datasets: Iterable[str]) -> dict[str, Path]:
    roots = {d: pictures[d] for d in set(datasets) if d in pictures} if pictures is not None else {}
    for dataset, root in sorted(roots.items()):
        if not root.is_dir():
            raise PlanError(f"pictures of {dataset}: no folder {root}")
    return roots


def _build_of(corpus: Path, dataset: str) -> str:
    """The fingerprint of a finished dataset. Raises PlanError, BuildError."""
    body = statistics_of(corpus, dataset)
    if body is None or not corpus_parts(corpus, dataset):
        raise PlanError(f"{corpus / dataset}: no built dataset; make it with `surgr1 data build`")
    return str(body["fingerprint"])


def _not_checked(
    datasets: Iterable[str], quotas: Sequence[Quota], roots: Mapping[str, Path]
) -> tuple[str, ...]:
    found = []
    for dataset in datasets:
        if not any(q.tasks_of(dataset) for q in quotas):
            found.append(f"{dataset}: no quota takes it")
        elif dataset not in roots:
            found.append(f"{dataset}: near-duplicates were not looked for, no folder of pictures was given")
    if roots and len(quotas) > 1:
        found.append("near-duplicates between quotas")
    return tuple(found)


def _report(
    quota: Quota,
    datasets: Sequence[str],
    pool: Pool,
    taken: Sequence[int],
    passed: Sequence[int],
    pictures: Pictures | None,
) -> QuotaReport:
    def counts(of: NDArray[np.int32], names: Sequence[str]) -> dict[str, Count]:
        found = [
            np.bincount(column, minlength=len(names)).tolist()
            for column in (of, of[list(taken)], of[list(passed)])
        ]
        each = zip(names, *found, strict=True)
        return {n: Count(pool=p, taken=t, duplicates=d) for n, p, t, d in sorted(each)}

    by_class = counts(pool.class_, [f"{task}|{name}" for task, name in pool.classes])
    classes: dict[str, dict[str, Count]] = {str(t): {} for t in quota.tasks}
    for key, count in by_class.items():
        task, _, name = key.partition("|")
        classes[task][name] = count
    dataset_of = {d: i for i, d in enumerate(datasets)}
    part_of = np.array([dataset_of[d] for d, _ in pool.files], np.int32)
    short = quota.limit - len(taken)
    return QuotaReport(
        name=quota.name,
        asked=quota.limit,
        pool=len(pool),
        taken=len(taken),
        duplicates=len(passed),
        flat=sum(pictures.flat(s) for s in passed) if pictures is not None else 0,
        hashed=len(pictures.hashes) if pictures is not None else 0,
        shortfall=short,
        reason=_reason(quota, datasets, len(pool), len(passed)) if short else "",
        datasets=counts(part_of[pool.file] if len(pool) else pool.file, datasets),
        classes=classes,
        centres=counts(pool.centre, pool.centres),
        videos=counts(pool.video, pool.videos),
    )


def _reason(quota: Quota, datasets: Sequence[str], pool: int, passed: int) -> str:
    """Why a quota is not full."""
    missing = sorted(set(quota.datasets) - {layout_of(d) for d in datasets})
    reasons = [f"not among the datasets: {', '.join(missing)}"] if missing else []
    if datasets:
        reasons.append(f"{pool} training samples of its tasks in {', '.join(datasets)}")
    if passed:
        reasons.append(f"{passed} of them near-duplicates")
    return "; ".join(reasons)


def _materialise(chosen: Sequence[tuple[Path, int]]) -> Any:
    """The rows (part, row) as a table, in the given order. Raises PlanError."""
    by_part: dict[Path, list[tuple[int, int]]] = {}
    for place, (path, row) in enumerate(chosen):
        by_part.setdefault(path, []).append((row, place))
    tables = [SAMPLE_SCHEMA.empty_table()]
    places: list[int] = []
    for path, wanted in by_part.items():
        wanted.sort()
        places += [place for _, place in wanted]
        rows = np.array([row for row, _ in wanted])
        try:
            with pq.ParquetFile(path) as file:
                first = 0
                for group in range(file.num_row_groups):
                    many = file.metadata.row_group(group).num_rows
                    low, high = np.searchsorted(rows, (first, first + many))
                    if low < high:
                        table = file.read_row_group(group, columns=SAMPLE_SCHEMA.names)
                        tables.append(table.take(pa.array(rows[low:high] - first)).cast(SAMPLE_SCHEMA))
                    first += many
        except (OSError, pa.ArrowException) as error:
            raise PlanError(f"{path}: not a whole part of a corpus ({error}); build it again") from error
    return pa.concat_tables(tables).take(pa.array(np.argsort(np.array(places, np.int64))))


def _write(out: Path, rows: Any, plan: Plan) -> None:
    """Both files atomically; without the report there is no plan."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / REPORT).unlink(missing_ok=True)
        part = out / f"{ROWS}.part"
        pq.write_table(rows, part, compression="zstd")
        _settle(part, out / ROWS)
        part = out / f"{REPORT}.part"
        part.write_text(json.dumps(plan.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
        _settle(part, out / REPORT)
    except OSError as error:
        raise PlanError(f"{out}: the plan cannot be written: {error}; free space and run again") from error


def _settle(part: Path, target: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(target)
