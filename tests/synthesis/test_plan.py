"""The sampling plan against slow references, on corpora written for it and on a built simulated one."""

import json
import random
import tracemalloc
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from surgr1.corpora.build import build, corpus_samples, statistics_of
from surgr1.corpora.grid import ImageError
from surgr1.corpora.near_duplicates import DISTANCE, phash_of
from surgr1.corpora.schema import SAMPLE_SCHEMA, Labels, Sample, to_row
from surgr1.corpora.sources import Source
from surgr1.ontology.tasks import Task
from surgr1.simulator.centres import CENTRES
from surgr1.simulator.operations import BYPASS, CHOLECYSTECTOMY, simulate_operation
from surgr1.simulator.render import render
from surgr1.simulator.world import SimPlan, Tree, simulate
from surgr1.synthesis.plan import (
    PlanError,
    Quota,
    make_plan,
    read_plan,
    read_quotas,
    read_report,
    table_3,
)

SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def sample(task, answer, *, frame, video="v1", centre="a", dataset="cholec80", focus="", **more) -> Sample:
    fields = {
        "dataset": dataset,
        "centre": centre,
        "procedure": "laparoscopic cholecystectomy",
        "canonical_video": f"cholec/{video}",
        "video": video,
        "frame": frame,
        "seconds": float(frame),
        "image": f"{video}/{frame:06d}.png",
        "width": 64,
        "height": 48,
        "task": Task(task),
        "question": "?",
        "options": (),
        "protocol": "open",
        "focus": focus,
        "answer": answer,
        "labels": Labels(phase="preparation"),
        "split": "train",
        "role": "train",
        "policy": "public",
        "licence": "none",
    }
    return Sample(**{**fields, **more})


def write_corpus(folder: Path, samples, parts=1) -> Path:
    """The layout of `corpora.build`, with the samples dealt to `parts` files."""
    by_dataset = defaultdict(list)
    for s in samples:
        by_dataset[s.dataset].append(s)
    for name, mine in by_dataset.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(parts):
            rows = [to_row(s) for s in mine[k::parts]]
            path = folder / name / f"part-{k:05d}-of-{parts:05d}.parquet"
            pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), path, row_group_size=50)
        (folder / name / "source.json").write_text(json.dumps({"fingerprint": f"of {name}"}))
    return folder


PHASES = Quota(name="phases", datasets=("cholec80",), tasks=(Task.PHASE_RECOGNITION,), limit=100)


def plan_of(folder, samples, quota, *, seed=0, pictures=None, parts=1, **more):
    write_corpus(folder / "corpus", samples, parts)
    datasets = sorted({s.dataset for s in samples})
    plan = make_plan(
        folder / "corpus", datasets, [quota], folder / "plan", pictures=pictures, seed=seed, **more
    )
    return plan, read_plan(folder / "plan")


def levels(capacities: dict, limit: int) -> dict:
    """Water-filling by its definition: the highest level that the water fills everywhere, and what is left
    over, one each, to the smallest vessels that are not full.
    """
    level = max(k for k in range(limit + 1) if sum(min(c, k) for c in capacities.values()) <= limit)
    shares = {name: min(c, level) for name, c in capacities.items()}
    rest = limit - sum(shares.values())
    open_ = sorted((c, name) for name, c in capacities.items() if c > level)
    for _, name in open_[:rest]:
        shares[name] += 1
    return shares


@SETTINGS
@given(
    phases=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    steps=st.lists(st.integers(1, 40), max_size=6),
    limit=st.integers(1, 150),
    seed=st.integers(0, 9),
)
def test_tasks_and_classes_are_filled_like_vessels(tmp_path_factory, phases, steps, limit, seed) -> None:
    sizes = {
        Task.PHASE_RECOGNITION: {f"phase {i}": n for i, n in enumerate(phases)},
        Task.STEP_RECOGNITION: {f"step {i}": n for i, n in enumerate(steps)},
    }
    samples = [
        sample(task, name, frame=1000 * i + k, video=f"v{k % 3}")
        for task, classes in sizes.items()
        for i, (name, n) in enumerate(classes.items())
        for k in range(n)
    ]
    quota = PHASES.model_copy(update={"tasks": tuple(sizes), "limit": limit})
    plan, taken = plan_of(tmp_path_factory.mktemp("p"), samples, quota, seed=seed)

    assert len(taken) == plan.taken == min(limit, len(samples))
    by_task = levels({t: sum(c.values()) for t, c in sizes.items() if c}, limit)
    if len({sum(c.values()) for c in sizes.values()}) == 2:
        # Between tasks of one size the draw decides who gets one more.
        assert Counter(s.task for s in taken) == Counter(by_task)
    for task, classes in sizes.items():
        counts = Counter(s.answer for s in taken if s.task == task)
        expected = levels(classes, counts.total())
        got = Counter((n, counts[name]) for name, n in classes.items())
        assert got == Counter((n, expected[name]) for name, n in classes.items())
        reported = plan.quotas[0].classes[task]
        assert {n: c.taken for n, c in reported.items()} == {n: counts[n] for n in classes}


def test_rare_classes_come_first_and_give_all_they_have(tmp_path) -> None:
    sizes = {"common": 500, "less common": 60, "rare": 3, "very rare": 1}
    samples = [
        sample("phase_recognition", name, frame=1000 * i + k)
        for i, (name, n) in enumerate(sizes.items())
        for k in range(n)
    ]
    counts = {}
    for limit in (2, 10, 100):
        quota = PHASES.model_copy(update={"limit": limit})
        counts[limit] = Counter(s.answer for s in plan_of(tmp_path, samples, quota)[1])
    assert counts[2] == {"very rare": 1, "rare": 1}
    assert counts[10] == {"very rare": 1, "rare": 3, "less common": 3, "common": 3}
    assert counts[100] == {"very rare": 1, "rare": 3, "less common": 48, "common": 48}


@SETTINGS
@given(
    videos=st.dictionaries(
        st.tuples(st.sampled_from("abc"), st.integers(1, 5)), st.integers(1, 30), min_size=1
    ),
    limit=st.integers(1, 120),
)
def test_centres_and_then_videos_share_a_class_equally(tmp_path_factory, videos, limit) -> None:
    samples = [
        sample("phase_recognition", "x", frame=k, video=f"{centre}{number}", centre=centre)
        for (centre, number), n in videos.items()
        for k in range(n)
    ]
    quota = PHASES.model_copy(update={"limit": limit})
    plan, taken = plan_of(tmp_path_factory.mktemp("p"), samples, quota)
    counts = Counter(s.centre for s in taken)
    sizes = Counter(s.centre for s in samples)
    assert sorted(counts[c] - levels(sizes, limit)[c] for c in sizes) in spread_of(len(sizes))
    for centre in sizes:
        mine = Counter(s.video for s in samples if s.centre == centre)
        got = Counter(s.video for s in taken if s.centre == centre)
        full = [v for v in mine if got[v] == mine[v]]
        rest = [got[v] for v in mine if v not in full]
        assert max(rest, default=0) - min(rest, default=0) <= 1
        assert all(got[v] <= min(rest, default=10**6) + 1 for v in full)
    assert {c: n.taken for c, n in plan.quotas[0].centres.items()} == {c: counts[c] for c in sizes}
    assert sum(n.taken for n in plan.quotas[0].videos.values()) == len(taken)


def spread_of(vessels: int) -> list[list[int]]:
    """What may lie between two ways to hand out what is left over: some get one more, as many one less."""
    return [[-1] * k + [0] * (vessels - 2 * k) + [1] * k for k in range(vessels // 2 + 1)]


@pytest.mark.parametrize("seed", range(5))
def test_frames_of_a_video_lie_far_apart(tmp_path, seed) -> None:
    samples = [sample("phase_recognition", "x", frame=k) for k in range(128)]
    quota = PHASES.model_copy(update={"limit": 8})
    frames = sorted(s.frame for s in plan_of(tmp_path, samples, quota, seed=seed)[1])
    assert {(b - a) % 128 for a, b in zip(frames, frames[1:] + frames[:1], strict=True)} == {16}

    samples = samples[:100]
    frames = sorted(s.frame for s in plan_of(tmp_path, samples, quota, seed=seed)[1])
    assert min(b - a for a, b in pairwise(frames)) >= 4


def test_a_sample_belongs_to_its_rarest_triplet_tool_focus_or_verdict(tmp_path) -> None:
    retract, dissect, clip = "grasper retract liver", "hook dissect cystic duct", "clipper clip cystic duct"
    samples = [
        *(sample("triplet_extraction", retract, frame=k) for k in range(5)),
        *(sample("triplet_extraction", f"{retract}; {dissect}", frame=10 + k) for k in range(3)),
        sample("triplet_extraction", f"{clip}; {dissect}; {retract}", frame=20),
        sample("triplet_extraction", "none", frame=21),
        sample("triplet_extraction", "none", frame=22),
        *(sample("tool_recognition", "grasper, hook", frame=30 + k) for k in range(4)),
        sample("tool_recognition", "grasper, clipper", frame=40),
        sample("tool_recognition", "none", frame=41),
        *(sample("tool_localization", f"({k},0),(9,9)", frame=50 + k, focus="hook") for k in range(3)),
        sample("tool_localization", "(1,1),(5,5)", frame=53, focus="clipper"),
        sample("grid_position_recognition", "left-top", frame=53, focus="clipper"),
        sample("cvs_criteria_assessment", "no", frame=60, focus="C1"),
        sample("cvs_criteria_assessment", "yes", frame=60, focus="C2"),
        sample("cvs_criteria_assessment", "no", frame=61, focus="C2"),
        *(sample("tool_counting", str(k // 2), frame=70 + k) for k in range(4)),
        sample("surgical_vqa", "kidney, left", frame=80, question="Which organ?"),
    ]
    quota = PHASES.model_copy(update={"tasks": tuple(Task), "limit": 999})
    plan, _ = plan_of(tmp_path, samples, quota)
    found = {t: {n: c.pool for n, c in classes.items()} for t, classes in plan.quotas[0].classes.items()}
    assert {t: c for t, c in found.items() if c} == {
        "triplet_extraction": {retract: 5, dissect: 3, clip: 1, "none": 2},
        "tool_recognition": {"hook": 4, "clipper": 1, "none": 1},
        "tool_localization": {"hook": 3, "clipper": 1},
        "grid_position_recognition": {"clipper left-top": 1},
        "cvs_criteria_assessment": {"C1 no": 1, "C2 yes": 1, "C2 no": 1},
        "tool_counting": {"0": 2, "1": 2},
        "surgical_vqa": {"kidney, left": 1},
    }


def some_samples(seed=3, number=400) -> list[Sample]:
    """Two tasks, skewed classes, three centres, twelve videos."""
    draw = random.Random(seed)
    found = []
    for k in range(number):
        task = draw.choice(("phase_recognition", "tool_recognition"))
        answer = f"x{min(draw.randrange(8), draw.randrange(8))}"
        video = draw.randrange(12)
        # Some samples share their moment.
        more = {"frame": k // 40, "video": f"v{video}", "centre": "abc"[video % 3], "question": f"{k}?"}
        found.append(sample(task, answer, **more))
    return found


BOTH = PHASES.model_copy(update={"tasks": (Task.PHASE_RECOGNITION, Task.TOOL_RECOGNITION)})


def test_only_training_samples_of_the_tasks_are_taken(tmp_path) -> None:
    samples = [
        replace(s, role=("train", "validation", "test", "external")[k % 4], sample_id="")
        for k, s in enumerate(some_samples())
    ]
    plan, taken = plan_of(tmp_path, samples, PHASES)
    wanted = [s for s in samples if s.role == "train" and s.task == "phase_recognition"]
    assert 0 < len(wanted) < 100
    assert sorted(s.sample_id for s in taken) == sorted(s.sample_id for s in wanted)
    assert (plan.quotas[0].pool, plan.quotas[0].shortfall) == (len(wanted), 100 - len(wanted))
    assert plan.quotas[0].reason == f"{len(wanted)} training samples of its tasks in cholec80"


def test_the_plan_holds_the_samples_whole(tmp_path) -> None:
    samples = some_samples()
    _, taken = plan_of(tmp_path, samples, BOTH)
    by_id = {s.sample_id: s for s in samples}
    assert len(taken) == 100
    assert all(s == by_id[s.sample_id] for s in taken)


def test_the_draw_depends_on_samples_and_seed_alone(tmp_path) -> None:
    samples = some_samples()
    first = plan_of(tmp_path / "1", samples, BOTH)[1]
    again = plan_of(tmp_path / "2", samples, BOTH)[1]
    shuffled = random.Random(1).sample(samples, len(samples))
    dealt = plan_of(tmp_path / "3", shuffled, BOTH, parts=7)[1]
    other = plan_of(tmp_path / "4", samples, BOTH, seed=1)[1]
    assert first == again == dealt
    assert (tmp_path / "1/plan/plan.parquet").read_bytes() == (tmp_path / "2/plan/plan.parquet").read_bytes()
    assert {s.sample_id for s in first} != {s.sample_id for s in other}
    assert len(other) == len(first)


def test_a_dataset_of_another_quota_changes_nothing(tmp_path) -> None:
    samples = some_samples()
    others = [replace(s, dataset="multibypass140", sample_id="") for s in some_samples(seed=4)]
    corpus = write_corpus(tmp_path / "corpus", samples + others)
    bypass = Quota(name="bypass", datasets=("multibypass140",), tasks=BOTH.tasks, limit=50)

    def drawn(datasets, quotas):
        make_plan(corpus, datasets, quotas, tmp_path / "plan", pictures=None, seed=0)
        return read_plan(tmp_path / "plan")

    alone = drawn(["cholec80"], [BOTH])
    both = drawn(["multibypass140", "cholec80"], [BOTH, bypass])
    assert [s for s in both if s.dataset == "cholec80"] == alone
    # Quotas are mixed: any first part of the plan holds them in proportion.
    assert Counter(s.dataset for s in both[:30]) == {"cholec80": 20, "multibypass140": 10}
    assert drawn(["cholec80", "multibypass140", "cholec80"], [BOTH, bypass]) == both


def test_a_quota_may_name_the_tasks_of_each_dataset(tmp_path) -> None:
    samples = [
        *(sample("phase_recognition", "x", frame=k) for k in range(5)),
        *(sample("phase_recognition", "x", frame=k, dataset="sim-cholect50") for k in range(5)),
        *(sample("triplet_extraction", "none", frame=k, dataset="sim-cholect50") for k in range(5)),
    ]
    plan, taken = plan_of(tmp_path, samples, table_3()[0])
    found = Counter((s.dataset, str(s.task)) for s in taken)
    assert found == {("cholec80", "phase_recognition"): 5, ("sim-cholect50", "triplet_extraction"): 5}
    assert {d: (r.simulated, r.taken, r.layout) for d, r in plan.datasets.items()} == {
        "cholec80": (False, 5, "cholec80"),
        "sim-cholect50": (True, 5, "cholect50"),
    }
    assert json.loads((tmp_path / "plan/plan.json").read_text())["datasets"]["sim-cholect50"]["simulated"]


def test_table_3_asks_what_the_paper_printed() -> None:
    limits = {q.name: q.limit for q in table_3()}
    assert limits == {
        "Cholec80 + CholecT50": 9262,
        "MultiBypass140": 6000,
        "SAR-RARP50": 5975,
        "Endoscapes": 6000,
        "EndoVis18-VQA": 11862,
        "EndoVis17": 1776,
    }
    assert sum(limits.values()) == 40875
    assert {str(t) for q in table_3() for t in q.tasks} == {
        "phase_recognition",
        "triplet_extraction",
        "action_recognition",
        "cvs_criteria_assessment",
        "surgical_vqa",
        "tool_recognition",
        "tool_localization",
        "grid_position_recognition",
        "tool_counting",
    }


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    """Small pictures of two simulated operations, no two within the distance."""
    found, codes = [], []
    for procedure, seed, name in (
        (CHOLECYSTECTOMY, 1, "sim-strasbourg-public"),
        (BYPASS, 3, "sim-bern-public"),
    ):
        centre = CENTRES[name]
        for scene in simulate_operation(procedure, seed=seed, centre=centre, seconds=26).scenes:
            picture = Image.fromarray(render(scene, centre).image).resize((213, 120))
            code = phash_of(picture)
            if all((code ^ c).bit_count() > 2 * DISTANCE for c in codes):
                found.append(picture)
                codes.append(code)
    assert len(found) >= 24
    return found[:24]


def as_jpeg(picture: Image.Image, path: Path) -> None:
    picture.resize((320, 180)).save(path, format="JPEG", quality=70)


def test_copies_of_a_picture_are_dropped_and_other_pictures_kept(tmp_path, scenes) -> None:
    root = tmp_path / "pictures"
    root.mkdir()
    samples = []
    for k, picture in enumerate(scenes):
        picture.save(root / f"{k}.png")
        as_jpeg(picture, root / f"{k}.jpg")
        answer = "x" if k % 2 else "y"
        samples += [
            sample("phase_recognition", answer, frame=k, image=f"{k}.png"),
            sample("phase_recognition", answer, frame=100 + k, video="copy", image=f"{k}.jpg"),
        ]
    plan, taken = plan_of(tmp_path, samples, PHASES, pictures={"cholec80": root})
    assert sorted(Path(s.image).stem for s in taken) == sorted(str(k) for k in range(24))
    quota = plan.quotas[0]
    assert (quota.taken, quota.duplicates, quota.flat, quota.hashed) == (24, 24, 0, 48)
    assert quota.reason == "48 training samples of its tasks in cholec80; 24 of them near-duplicates"
    assert {n: (c.taken, c.duplicates) for n, c in quota.classes["phase_recognition"].items()} == {
        "x": (12, 12),
        "y": (12, 12),
    }
    assert plan.not_checked == ()

    few, taken = plan_of(
        tmp_path, samples, PHASES.model_copy(update={"limit": 10}), pictures={"cholec80": root}
    )
    assert len({Path(s.image).stem for s in taken}) == 10
    # Pictures whose turn does not come are not looked at.
    assert few.quotas[0].hashed < 40

    unchecked, _ = plan_of(tmp_path, samples, PHASES, pictures=None)
    assert (unchecked.quotas[0].taken, unchecked.quotas[0].hashed) == (48, 0)
    assert unchecked.not_checked == (
        "cholec80: near-duplicates were not looked for, no folder of pictures was given",
    )


def test_one_picture_may_be_asked_several_questions_and_one_flat_picture_is_enough(tmp_path, scenes) -> None:
    scenes[0].save(tmp_path / "a.png")
    for name in ("black", "dark"):
        Image.new("RGB", (64, 48), (5, 5, 5)).save(tmp_path / f"{name}.png")
    samples = [
        *(sample("surgical_vqa", f"x{k}", frame=1, image="a.png", question=f"{k}?") for k in range(4)),
        *(sample("surgical_vqa", "x", frame=2, image="black.png", question=f"{k}?") for k in range(2)),
        sample("surgical_vqa", "x", frame=3, image="dark.png"),
    ]
    quota = PHASES.model_copy(update={"tasks": (Task.SURGICAL_VQA,)})
    plan, taken = plan_of(tmp_path, samples, quota, pictures={"cholec80": tmp_path})
    images = Counter(s.image for s in taken)
    assert images.pop("a.png") == 4
    assert len(images) == 1
    assert plan.quotas[0].flat == 7 - len(taken)


@SETTINGS
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True),
    pictures=st.integers(1, 60),
    limit=st.integers(1, 80),
    seed=st.integers(0, 10**6),
)
def test_the_draw_with_near_duplicates_is_that_of_the_slow_reference(
    tmp_path_factory, sizes, pictures, limit, seed
) -> None:
    """One after the other, with every hash known: the class that has fewest (the rarest of several) gives
    its next sample; it is passed over where its picture lies within the distance of one taken.
    """
    draw = random.Random(seed)
    centres = [draw.getrandbits(64) for _ in range(pictures)]
    samples, codes = [], {}
    for i, size in enumerate(sizes):
        for k in range(size):
            image = f"{i}-{k // 2}.png"
            flipped = sum(1 << b for b in draw.sample(range(64), draw.choice((0, 1, 2, 3, 40))))
            code = draw.choice(centres) ^ flipped if draw.random() > 0.05 else None
            codes.setdefault(image, code)
            samples.append(sample("phase_recognition", f"{i}", frame=k, video=f"v{k % 3}", image=image))
    folder = tmp_path_factory.mktemp("p")
    everything = PHASES.model_copy(update={"limit": len(samples)})
    queues = defaultdict(list)
    for s in plan_of(folder / "all", samples, everything)[1]:
        queues[s.answer].append(s)
    pools = {name: len(queue) for name, queue in queues.items()}

    taken, shown, passed = [], {}, 0
    while len(taken) < limit and any(queues.values()):
        counts = Counter(s.answer for s in taken)
        name = min((n for n in queues if queues[n]), key=lambda n: (counts[n], pools[n]))
        s = queues[name].pop(0)
        code = codes[s.image]
        near = [c for c in shown.values() if (c is None) == (code is None)]
        near = [c for c in near if c is None or (c ^ code).bit_count() <= DISTANCE]
        if s.image not in shown and near:
            passed += 1
        else:
            shown[s.image] = code
            taken.append(s)

    quota = PHASES.model_copy(update={"limit": limit})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgr1.synthesis.draw.phash", lambda path: codes[path.name])
        plan, got = plan_of(folder / "some", samples, quota, pictures={"cholec80": folder}, workers=1)
    assert got == taken
    assert plan.quotas[0].duplicates == passed


def test_copies_of_real_frames_are_dropped(tmp_path, real_samples) -> None:
    """Real frames a second apart are not copies; each as JPEG is one."""
    frames = sorted((real_samples / "cholect50").rglob("*.png"))[::40][:12]
    if not frames:
        pytest.skip("no frames of CholecT50 among the real samples")
    samples = []
    for k, path in enumerate(frames):
        with Image.open(path) as picture:
            picture.convert("RGB").save(tmp_path / f"{k}.png", compress_level=1)
            as_jpeg(picture.convert("RGB"), tmp_path / f"{k}.jpg")
        samples += [
            sample("phase_recognition", f"{k % 3}", frame=2 * k + i, image=f"{k}.{ending}")
            for i, ending in enumerate(("png", "jpg"))
        ]
    plan, taken = plan_of(tmp_path, samples, PHASES, pictures={"cholec80": tmp_path})
    assert sorted(Path(s.image).stem for s in taken) == sorted(str(k) for k in range(len(frames)))
    assert plan.quotas[0].duplicates == len(frames)


def test_the_paper_s_quotas_draw_from_a_built_simulated_corpus(tmp_path) -> None:
    trees = (
        Tree(dataset="sim-cholec80", centre="sim-strasbourg-public", seconds=14, train=(1, 2), test=(41,)),
        Tree(dataset="sim-cholect50", centre="sim-strasbourg-public", seconds=14, train=(1, 2)),
    )
    simulate(tmp_path / "sim", SimPlan(trees=trees), workers=1)
    names = [t.dataset for t in trees]
    corpus = tmp_path / "corpus"
    build([Source(dataset=d, root=tmp_path / "sim" / d, policy="public") for d in names], corpus, workers=0)
    roots = {d: Path(statistics_of(corpus, d)["pictures"]) for d in names}
    steps = []
    plan = make_plan(
        corpus,
        names,
        table_3(),
        tmp_path / "plan",
        pictures=roots,
        seed=5,
        progress=lambda *n: steps.append(n),
    )
    taken = read_plan(tmp_path / "plan")

    pool = {
        s.sample_id: s
        for d, task in (("sim-cholec80", "phase_recognition"), ("sim-cholect50", "triplet_extraction"))
        for s in corpus_samples(corpus, d)
        if s.role == "train" and s.task == task
    }
    first, *others = plan.quotas
    assert first.pool == len(pool) == first.taken + first.duplicates
    assert all(s == pool[s.sample_id] for s in taken)
    codes = {s.sample_id: phash_of(Image.open(roots[s.dataset] / s.image)) for s in pool.values()}
    kept = [codes[s.sample_id] for s in taken if codes[s.sample_id] is not None]
    assert all((a ^ b).bit_count() > DISTANCE for i, a in enumerate(kept) for b in kept[:i])
    # The two sets show the same operations: of each frame, one is left.
    dropped = [codes[i] for i in pool.keys() - {s.sample_id for s in taken}]
    assert len(dropped) >= 20
    assert all(c is None or min((c ^ k).bit_count() for k in kept) <= DISTANCE for c in dropped)
    assert steps[-1] == (len(taken), 40875)
    assert all(d.simulated for d in plan.datasets.values())
    assert [q.reason for q in others][:2] == [
        "not among the datasets: multibypass140",
        "not among the datasets: sar-rarp50",
    ]
    assert read_report(tmp_path / "plan") == plan


def big_corpus(folder: Path, rows: int, per_part: int = 100_000) -> Path:
    """Phases of two centres and 40 videos at one frame a second, the rarest class with one row in 500."""
    draw = np.random.default_rng(0)
    (folder / "multibypass140").mkdir(parents=True)
    constant = to_row(sample("phase_recognition", "", frame=0, dataset="multibypass140"))
    for k in range(rows // per_part):
        number = np.arange(per_part) + k * per_part
        video = number * 40 // rows
        phase = np.minimum(draw.geometric(0.4, per_part), 12)
        columns = {
            "sample_id": [f"{i:020x}" for i in number.tolist()],
            "centre": np.where(video % 2, "bern", "strasbourg"),
            "canonical_video": [f"multibypass140/v{v}" for v in video.tolist()],
            "video": [f"v{v}" for v in video.tolist()],
            "frame": number,
            "seconds": number.astype(float),
            "image": [f"v{v}/{i:08d}.jpg" for v, i in zip(video.tolist(), number.tolist(), strict=True)],
            "answer": [f"phase {p}" for p in phase.tolist()],
        }
        arrays = [
            pa.array(columns[f.name], f.type)
            if f.name in columns
            else pa.repeat(pa.scalar(constant[f.name], f.type), per_part)
            for f in SAMPLE_SCHEMA
        ]
        path = folder / "multibypass140" / f"part-{k:05d}-of-{rows // per_part:05d}.parquet"
        pq.write_table(pa.table(arrays, schema=SAMPLE_SCHEMA), path, row_group_size=10_000)
    (folder / "multibypass140" / "source.json").write_text('{"fingerprint": ""}')
    return folder


def test_two_hundred_thousand_rows_are_arrays_not_objects(tmp_path) -> None:
    corpus = big_corpus(tmp_path / "corpus", 200_000)
    quota = next(q for q in table_3() if q.name == "MultiBypass140")
    tracemalloc.start()
    plan = make_plan(corpus, ["multibypass140"], [quota], tmp_path / "plan", pictures=None, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A row as an object would take over a kilobyte.
    assert peak < 200_000 * 300
    (report,) = plan.quotas
    assert (report.pool, report.taken, report.shortfall) == (200_000, 6000, 0)
    counts = report.classes["phase_recognition"]
    expected = levels({n: c.pool for n, c in counts.items()}, 6000)
    assert {n: c.taken for n, c in counts.items()} == expected
    taken = read_plan(tmp_path / "plan")
    assert Counter(s.answer for s in taken) == expected
    by_place = Counter((s.answer, s.centre) for s in taken)
    assert all(abs(by_place[n, "bern"] - by_place[n, "strasbourg"]) <= 1 for n in ("phase 1", "phase 2"))
    per_video = Counter(s.video for s in taken if s.answer == "phase 1")
    assert len(per_video) == 40
    assert max(per_video.values()) - min(per_video.values()) <= 1
    # 12 or 13 of 2,000 phase-1 frames of a 5,000-second video: no two near each other.
    frames = sorted(s.frame for s in taken if s.answer == "phase 1" and s.video == "v7")
    assert min(b - a for a, b in pairwise(frames)) > 100


def test_an_empty_pool_is_a_plan_of_nothing_with_its_reason(tmp_path) -> None:
    samples = [sample("phase_recognition", "x", frame=1, role="test")]
    plan, taken = plan_of(tmp_path, samples, PHASES, pictures={"cholec80": tmp_path})
    assert (taken, plan.taken, plan.quotas[0].shortfall) == ([], 0, 100)
    assert plan.quotas[0].reason == "0 training samples of its tasks in cholec80"


def test_what_cannot_be_planned_is_an_error_that_names_it(tmp_path) -> None:
    samples = [sample("phase_recognition", "x", frame=1)]
    corpus = write_corpus(tmp_path / "corpus", samples)
    out = tmp_path / "plan"

    def make(datasets=("cholec80",), quotas=(PHASES,), pictures=None, **more):
        return make_plan(corpus, datasets, quotas, out, pictures=pictures, seed=0, **more)

    with pytest.raises(PlanError, match=r"corpus.cholect50: no built dataset"):
        make(["cholect50"])
    with pytest.raises(PlanError, match="quota 'phases' stands twice"):
        make(quotas=(PHASES, PHASES))
    with pytest.raises(PlanError, match="'phases' and 'more' both take phase_recognition of cholec80"):
        make(quotas=(PHASES, BOTH.model_copy(update={"name": "more"})))
    with pytest.raises(PlanError, match="quotas: none"):
        make(quotas=())
    with pytest.raises(PlanError, match="distance 65: expected 0-64"):
        make(distance=65)
    with pytest.raises(PlanError, match=r"pictures of cholec80: no folder .*nowhere"):
        make(pictures={"cholec80": tmp_path / "nowhere"})
    with pytest.raises(ImageError, match=r"v1/000001\.png: no such picture"):
        make(pictures={"cholec80": tmp_path})
    assert not out.exists()

    make()
    (part,) = (corpus / "cholec80").glob("*.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[:-30])
    with pytest.raises(PlanError, match=r"part-00000-of-00001\.parquet: not a whole part"):
        make()
    pq.write_table(pa.table({"sample_id": ["a"]}), part)
    with pytest.raises(PlanError, match=r"part-00000-of-00001\.parquet: no column dataset"):
        make()
    # What was there before is still whole.
    assert read_plan(out) == samples

    (out / "plan.parquet").write_bytes(b"PAR1")
    with pytest.raises(PlanError, match=r"plan\.parquet: not the rows of a plan"):
        read_plan(out)
    (out / "plan.json").write_text("{}")
    with pytest.raises(PlanError, match=r"plan\.json: not the report"):
        read_plan(out)
    (out / "plan.json").unlink()
    with pytest.raises(PlanError, match=r"plan\.json: no such file"):
        read_plan(out)


def test_rows_without_their_report_are_no_plan(tmp_path, monkeypatch) -> None:
    plan_of(tmp_path, some_samples(), BOTH)

    def full_disk(part, target):
        if target.name == "plan.json":
            raise OSError("No space left on device")
        part.replace(target)

    monkeypatch.setattr("surgr1.synthesis.plan._settle", full_disk)
    with pytest.raises(PlanError, match=r"plan: the plan cannot be written: No space left"):
        plan_of(tmp_path, some_samples(), BOTH, seed=1)
    with pytest.raises(PlanError, match=r"plan\.json: no such file"):
        read_plan(tmp_path / "plan")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("quotas: 3", "expected one entry"),
        ("- a", "expected one entry"),
        ("quotas: [", "not a file of quotas"),
        ("quotas: []", "none given"),
        ("quotas: [{name: a, datasets: [x], tasks: [phase_recognition]}]", "limit"),
        ("quotas: [{name: a, datasets: [x], tasks: [dance], limit: 1}]", "tasks"),
        ("quotas: [{name: a, datasets: [x], tasks: [phase_recognition], limit: 0}]", "limit"),
        ("quotas: [{name: a, datasets: [sim-cholec80], tasks: [phase_recognition], limit: 1}]", "cholec80"),
        (
            "quotas: [{name: a, datasets: [x], tasks: [phase_recognition], limit: 1, only: {y: []}}]",
            "only: y",
        ),
    ],
)
def test_a_bad_file_of_quotas_is_named(tmp_path, text, what) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=what) as caught:
        read_quotas(path)
    assert str(path) in str(caught.value)


def test_a_sleeve_quota_of_one_s_own_stands_beside_the_paper_s(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("quotas: [{name: Sleeve, datasets: [my-sleeve], tasks: [triplet_extraction], limit: 3}]")
    samples = [sample("triplet_extraction", "none", frame=k, dataset="my-sleeve") for k in range(5)]
    corpus = write_corpus(tmp_path / "corpus", samples)
    quotas = (*table_3(), *read_quotas(path))
    plan = make_plan(corpus, ["my-sleeve"], quotas, tmp_path / "plan", pictures=None, seed=0)
    assert (plan.taken, plan.quotas[-1].taken, plan.quotas[-1].reason) == (3, 3, "")
