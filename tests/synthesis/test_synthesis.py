"""Teachers, validation and conversations on simulated samples; kill and continue; an endpoint that answers
badly; exports read back.
"""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from surgr1.corpora.grid import PreparedImage, prepare_image
from surgr1.corpora.schema import Sample
from surgr1.corpora.sources import Source, read_source
from surgr1.engines.types import Completion, Request
from surgr1.ontology.tasks import Task
from surgr1.reasoning.trace import Trace, parse, render
from surgr1.simulator.world import SimPlan, Tree, simulate
from surgr1.synthesis.conversations import (
    ConversationError,
    read_conversations,
    trace_conversation,
    vqa_conversation,
    write_conversations,
)
from surgr1.synthesis.offline import OfflineTeacher, aspects
from surgr1.synthesis.pretraining import descriptions, echoes, observations, readings
from surgr1.synthesis.quality import check_file
from surgr1.synthesis.store import TraceStore
from surgr1.synthesis.synthesize import synthesize
from surgr1.synthesis.teachers import ModelTeacher
from surgr1.synthesis.validate import validate
from surgr1.training.refine import refine_iteration

TREES = (
    Tree(dataset="sim-cholec80", centre="sim-strasbourg-public", seconds=14, train=(1,)),
    Tree(dataset="sim-cholect50", centre="sim-strasbourg-public", seconds=14, train=(1,)),
    Tree(dataset="sim-endoscapes", centre="sim-london-public", seconds=24, train=(11,)),
    Tree(dataset="sim-sar-rarp50", centre="sim-london-public", seconds=40, train=(1,)),
    Tree(dataset="sim-multibypass140", centre="sim-bern-public", seconds=24, train=(1,)),
)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> tuple[list[Sample], dict[str, PreparedImage]]:
    out = tmp_path_factory.mktemp("world")
    simulate(out, SimPlan(trees=TREES), workers=1)
    samples, images = [], {}
    for tree in TREES:
        root = out / tree.dataset
        role = "train" if tree.layout == "multibypass140" else None
        for s in read_source(Source(dataset=tree.dataset, root=root, policy="public", role=role)):
            samples.append(s)
            images[s.sample_id] = prepare_image(root / s.image, out / "images", min_tokens=4, max_tokens=24)
    return samples, images


def test_every_offline_trace_passes_every_check(world, tmp_path) -> None:
    samples, images = world
    report = synthesize(samples, images, OfflineTeacher(), tmp_path)
    assert (report.accepted, report.rejected, report.reasons) == (len(samples), 0, {})
    found = check_file(report.accepted_path)
    assert found["accepted"] == found["traces"] == len(samples)
    assert all(v["failed"] == 0 < v["passed"] for v in found["checks"].values())
    tasks = Counter(c.task for c in read_conversations(report.accepted_path))
    assert len(tasks) >= 11
    for c in list(read_conversations(report.accepted_path))[::50]:
        assert len(c.completion.split()) < 90 and c.source == "offline-labels-v2"


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (lambda t: t.replace("Level 2:", "Level 3:"), "format"),
        (lambda t: t.replace("<answer>", "<answer>irrigator aspirate fluid; "), "answer"),
        (lambda t: t.replace("Level 1:", "Level 1: A clip applier is visible."), "tools_supported"),
        (lambda t: t.replace("Level 1:", "Level 1: The ground truth is clear."), "no_leak"),
        (lambda t: t + "!", "format"),
    ],
)
def test_a_corrupted_trace_is_rejected_by_the_right_check(world, damage, check) -> None:
    samples, images = world
    sample = next(
        s
        for s in samples
        if s.task == "triplet_extraction" and "retract" in s.answer and "clipper" not in s.answer
    )
    image = images[sample.sample_id]
    text = render(OfflineTeacher().trace(sample, image))
    assert all(f.ok for f in validate(text, sample, image)[0])
    assert check in {f.check for f in validate(damage(text), sample, image)[0] if not f.ok}


def test_box_answers_are_in_pixels_of_the_prepared_picture(world) -> None:
    samples, images = world
    sample = next(s for s in samples if s.task == "tool_localization")
    image = images[sample.sample_id]
    conversation = vqa_conversation(sample, image)
    x = int(conversation.answer[1:].split(",")[0])
    assert x == pytest.approx(
        int(sample.answer[1:].split(",")[0]) * image.width / image.original_width, abs=1
    )
    assert parse(conversation.completion).answer == conversation.answer


def test_a_stopped_synthesis_asks_only_for_what_is_undecided(world, tmp_path) -> None:
    samples, images = world
    asked: list[str] = []

    class Counting(OfflineTeacher):
        stop = 70

        def traces(self, samples, images, attempt, failed):
            for written in super().traces(samples, images, attempt, failed):
                if len(asked) == self.stop:
                    raise KeyboardInterrupt
                asked.append(written.sample.sample_id)
                yield written

    chosen = samples[:100]
    with pytest.raises(KeyboardInterrupt):
        synthesize(chosen, images, Counting(), tmp_path)
    with TraceStore(tmp_path) as store:
        stored = set(store.states([s.sample_id for s in chosen], "teacher"))
    assert stored == set(asked)
    Counting.stop = -1
    asked.clear()
    report = synthesize(chosen, images, Counting(), tmp_path)
    assert set(asked) == {s.sample_id for s in chosen} - stored and report.accepted == 100


class Scripted:
    """An engine that answers from a function of the request."""

    name, model = "scripted", "teacher-x"

    def __init__(self, answer):
        self.answer, self.prompts = answer, []

    def generate(self, requests, sampling):
        for request in requests:
            self.prompts.append(request.prompt)
            yield (
                request,
                [
                    Completion(self.answer(request, k), "stop", 1, 1, 0.0, 1, "scripted", "teacher-x")
                    for k in range(sampling.first, sampling.first + sampling.n)
                ],
            )


def test_a_model_teacher_is_validated_and_retried(world, tmp_path) -> None:
    samples, images = world
    chosen = [s for s in samples if s.task == "phase_recognition"][:6]
    by_id = {s.sample_id: s for s in chosen}
    tries: Counter[str] = Counter()

    def answer(request, k):
        sample = by_id[request.request_id]
        tries[sample.sample_id] += 1
        if sample is chosen[0]:
            return "I cannot help with that."
        if sample is chosen[1] and tries[sample.sample_id] == 1:
            return "<think>Level 1: a</think><answer>preparation</answer>"
        if sample is chosen[1]:
            assert "exactly" in request.prompt.lower() and "rejected" in request.prompt.lower()
        return render(OfflineTeacher().trace(sample, images[sample.sample_id]))

    engine = Scripted(answer)
    report = synthesize(chosen, images, ModelTeacher(engine, statistics={}), tmp_path)
    assert (report.accepted, report.rejected) == (5, 1) and tries[chosen[1].sample_id] == 2
    rejected = [json.loads(x) for x in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [r["sample_id"] for r in rejected] == [chosen[0].sample_id] and rejected[0]["reasons"]
    assert {c.source for c in read_conversations(report.accepted_path)} == {"teacher-x"}


def test_refinement_sorts_samples_into_both_pathways(world, tmp_path) -> None:
    """Eq. 8: hard when none of K=3 is right; right but unsound traces are re-tagged; right and sound ones are
    kept as self-generated.
    """
    samples, images = world
    chosen = [s for s in samples if s.task == "phase_recognition" and s.dataset == "sim-cholect50"][:6]
    by_id = {s.sample_id: s for s in chosen}

    def answer(request, k):
        sample = by_id[request.request_id]
        good = render(OfflineTeacher().trace(sample, images[sample.sample_id]))
        if sample is chosen[0]:
            return "<answer>nonsense</answer>"
        if sample is chosen[1]:
            return f"<answer>{sample.answer}</answer>"
        if sample is chosen[2]:
            return good if k == 2 else "nonsense"
        return good

    report = refine_iteration(chosen, images, Scripted(answer), OfflineTeacher(), tmp_path, iteration=1)
    assert (report.hard, report.retagged, report.self_generated, report.teacher_generated) == (1, 1, 4, 2)
    assert report.composition == {"sim-cholect50": {"self": 4, "teacher": 2}}
    sources = {c.sample_id: c.source for c in read_conversations(tmp_path / "conversations.parquet")}
    assert sources[chosen[0].sample_id] == sources[chosen[1].sample_id] == "offline-labels-v2"
    assert sources[chosen[2].sample_id] == "teacher-x/iteration-1"
    with TraceStore(tmp_path) as store:
        kept = store.of([s.sample_id for s in chosen], "self")
    # The rollouts of a sample end with the first right and sound one.
    assert [len(kept[s.sample_id]) for s in chosen] == [3, 3, 3, 1, 1, 1]
    assert [sum(d.right for d in kept[s.sample_id]) for s in chosen] == [0, 3, 1, 1, 1, 1]
    assert {c.provenance["pathway"] for c in read_conversations(tmp_path / "conversations.parquet")} == {
        "self",
        "teacher",
    }


def test_stopping_at_the_first_right_rollout_changes_no_verdict(world, tmp_path) -> None:
    """Against all K = 3 rollouts of every sample: same hard set, same re-tagged, same trace kept."""
    samples, images = world
    chosen = [s for s in samples if s.task == "phase_recognition"][:40]
    by_id = {s.sample_id: s for s in chosen}

    def answer(request, k):
        sample = by_id[request.request_id]
        trace = OfflineTeacher().trace(sample, images[sample.sample_id])
        good = render(Trace(trace.levels | {3: f"{trace.levels[3]} Rollout {k}."}, trace.answer))
        kind = int(hashlib.sha256(f"{sample.sample_id}{k}".encode()).hexdigest(), 16) % 3
        return ("nonsense", f"<answer>{sample.answer}</answer>", good)[kind]

    hard, unsound, kept = set(), set(), {}
    for sample in chosen:
        texts = [answer(Request(sample.sample_id, "", (), ""), k) for k in range(3)]
        findings = [validate(t, sample, images[sample.sample_id])[0] for t in texts]
        right = [next(f.ok for f in found if f.check == "answer") for found in findings]
        sound = [all(f.ok for f in found) for found in findings]
        if not any(right):
            hard.add(sample.sample_id)
        elif not any(sound):
            unsound.add(sample.sample_id)
        else:
            kept[sample.sample_id] = texts[sound.index(True)]
    assert hard and unsound and kept
    report = refine_iteration(chosen, images, Scripted(answer), OfflineTeacher(), tmp_path, iteration=1)
    assert (report.hard, report.retagged, report.self_generated) == (len(hard), len(unsound), len(kept))
    written = {c.sample_id: c for c in read_conversations(tmp_path / "conversations.parquet")}
    assert {i: c.completion for i, c in written.items() if "iteration" in c.source} == kept
    assert report.generated < 3 * len(chosen)


def test_conversations_read_back_and_a_damaged_file_is_named(world, tmp_path) -> None:
    samples, images = world
    s = samples[0]
    rows = [
        vqa_conversation(s, images[s.sample_id]),
        trace_conversation(
            s, images[s.sample_id], Trace({1: "a"}, "x"), source="t", checks={"format": True, "answer": False}
        ),
    ]
    path = tmp_path / "c.parquet"
    assert write_conversations(path, rows) == 2 and list(read_conversations(path)) == rows
    assert check_file(path)["checks"]["answer"]["failed"] == 1
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConversationError, match=r"c\.parquet"):
        list(read_conversations(path))


def test_pretraining_answers_no_question_about_a_picture(world, tmp_path) -> None:
    samples, images = world
    by_id = {s.sample_id: s for s in samples}
    described = list(descriptions(samples, images))
    assert len(described) == len({(s.dataset, s.video, s.frame) for s in samples})
    assert all(c.prompt == f"Describe the {', '.join(aspects(by_id[c.sample_id]))}." for c in described)
    seen = list(observations(samples, images, 60))
    assert len(seen) == 60 and all(c.prompt.startswith(by_id[c.sample_id].question) for c in seen)
    # Phases, actions and yes/no are never said of a picture: what is said are the cues.
    for c in seen:
        sample = by_id[c.sample_id]
        if sample.task in (Task.PHASE_RECOGNITION, Task.ACTION_RECOGNITION):
            assert sample.answer not in c.completion.lower()
    repeated = list(echoes(samples, images, Path(tmp_path), 50))
    assert len(repeated) == 50 and all(c.prompt == f"Repeat: {c.completion}" for c in repeated)
    read = list(readings(samples, images, Path(tmp_path), 40))
    assert len(read) == 40 and all(c.prompt.startswith("Read: ") and "?" not in c.completion for c in read)
    assert not any("<" in c.completion for c in (*described, *seen, *read))
    # What is asked about is never in the picture: that shows another frame, in one or two tokens.
    assert max(c.width * c.height for c in (*repeated, *read)) <= 2 * 28 * 28


def test_samples_keep_their_identity(world) -> None:
    sample = world[0][0]
    assert replace(sample, answer="other").sample_id == sample.sample_id
    assert replace(sample, sample_id="", question="another?").sample_id != sample.sample_id
