"""The nano base's stand-in for pre-training: frames described in words, sentences to repeat, texts to read.

A real Qwen2.5-VL brings four things that a random model lacks: it can say what it sees, it can say what of
it bears on a question, it knows the words, and it can read. Descriptions and observations teach the first
two; repeating sentences (tags, questions, names, numbers) beside a tiny unrelated picture teaches the third,
answering questions about a *written* description the fourth (which cue belongs to which phase is textbook
knowledge), both without tying any word to any image. No question about phase, action or criterion comes with
an image and its answer: that is stage 1; the form of levels and answer is stage 2.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from surgr1.corpora.grid import PreparedImage, prepare_image
from surgr1.corpora.schema import Sample
from surgr1.corpora.select import balanced
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.reasoning.trace import render
from surgr1.synthesis.conversations import Conversation
from surgr1.synthesis.offline import OfflineTeacher, aspects

BEARING = {
    Task.TOOL_RECOGNITION: ("instruments",),
    Task.TRIPLET_EXTRACTION: ("instruments", "actions"),
    Task.ACTION_RECOGNITION: ("activity",),
    Task.PHASE_RECOGNITION: ("instruments", "actions", "activity"),
    Task.CVS_CRITERIA_ASSESSMENT: ("critical view",),
}
"""Which aspects of a description bear on a task's question: its answer follows from their words."""


def descriptions(samples: Iterable[Sample], images: Mapping[str, PreparedImage]) -> Iterator[Conversation]:
    """Everything the labels of a frame support, once per frame. The prompt names the aspects, because
    datasets label different ones of the same scene.
    """
    frames = {(s.dataset, s.video, s.frame): s for s in samples}
    for sample in frames.values():
        found = aspects(sample)
        if found:
            prompt = f"Describe the {', '.join(found)}."
            text = _text(found.values())
            yield _conversation(sample, images[sample.sample_id], prompt, text, "description")


def observations(
    samples: Iterable[Sample], images: Mapping[str, PreparedImage], limit: int
) -> Iterator[Conversation]:
    """At most `limit` questions met with what is seen that bears on them, not with their answer."""
    for sample in balanced([s for s in samples if s.task in BEARING], limit):
        found = aspects(sample, 1)
        if sample.task is Task.CVS_CRITERIA_ASSESSMENT:
            criteria = load_procedure(sample.procedure).criteria
            which = next(i for i, c in enumerate(criteria) if c.id == sample.focus)
            seen = found["critical view"][which]
        else:
            seen = _text(found[a] for a in BEARING[sample.task] if a in found)
        prompt = f"{sample.question}\nDescribe what bears on it."
        yield _conversation(sample, images[sample.sample_id], prompt, seen, "observation")


def echoes(
    samples: Iterable[Sample], images: Mapping[str, PreparedImage], cache: Path, limit: int
) -> Iterator[Conversation]:
    """At most `limit` distinct sentences of questions, traces and answers, each beside another frame shrunk
    to a few tokens.
    """
    samples = list(samples)
    teacher = OfflineTeacher()
    sentences: dict[str, None] = {}
    for sample in samples:
        trace = teacher.trace(sample, images[sample.sample_id])
        for text in (sample.question, render(trace), render(type(trace)({}, trace.answer))):
            for part in re.split(r"(?<=[.?])\s+", text):
                sentences.setdefault(part)
    for k, text in enumerate(list(sentences)[:limit]):
        other, tiny = _elsewhere(samples, images, cache, k)
        yield _conversation(other, tiny, f"Repeat: {text}", text, "echo")


def readings(
    samples: Iterable[Sample], images: Mapping[str, PreparedImage], cache: Path, limit: int
) -> Iterator[Conversation]:
    """At most `limit` questions, each asked of a written description and answered in plain words, beside
    another frame shrunk to a few tokens.
    """
    samples = list(samples)
    chosen = balanced([s for s in samples if s.task in BEARING], limit)
    for k, sample in enumerate(chosen):
        other, tiny = _elsewhere(samples, images, cache, k)
        prompt = f"Read: {_text(aspects(sample).values())} {sample.question}"
        yield _conversation(other, tiny, prompt, sample.answer, "reading")


def _text(found: Iterable[tuple[str, ...]]) -> str:
    return " ".join(sentence for sentences in found for sentence in sentences)


def _elsewhere(
    samples: list[Sample], images: Mapping[str, PreparedImage], cache: Path, k: int
) -> tuple[Sample, PreparedImage]:
    """Another frame, shrunk to a few tokens."""
    other = samples[(k * 7919) % len(samples)]
    return other, prepare_image(images[other.sample_id].path, cache, min_tokens=1, max_tokens=2)


def _conversation(
    sample: Sample, image: PreparedImage, prompt: str, completion: str, source: str
) -> Conversation:
    return Conversation(
        sample.sample_id,
        sample.dataset,
        sample.video,
        "pretraining",
        prompt,
        completion,
        str(image.path),
        image.width,
        image.height,
        source,
        completion,
        sample.policy,
    )
