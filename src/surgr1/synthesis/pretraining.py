"""The nano base's stand-in for pre-training: frames described in words, and sentences to repeat.

A real Qwen2.5-VL brings two things that a random model lacks: it can name what it sees, and it knows the
words. Descriptions teach the first; repeating sentences (tags, questions, names, numbers) beside a tiny
unrelated picture teaches the second without tying any word to any image. Neither shows a question with its
answer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from surgr1.corpora.grid import PreparedImage, prepare_image
from surgr1.corpora.schema import Sample
from surgr1.reasoning.trace import render
from surgr1.synthesis.conversations import Conversation
from surgr1.synthesis.teachers import OfflineTeacher, describe


def descriptions(samples: Iterable[Sample], images: Mapping[str, PreparedImage]) -> Iterator[Conversation]:
    """One description per frame."""
    frames = {(s.dataset, s.video, s.frame): s for s in samples}
    for sample in frames.values():
        yield _conversation(
            sample, images[sample.sample_id], "Describe the image.", describe(sample), "description"
        )


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
        other = samples[(k * 7919) % len(samples)]
        tiny = prepare_image(images[other.sample_id].path, cache, min_tokens=1, max_tokens=2)
        yield _conversation(other, tiny, f"Repeat: {text}", text, "echo")


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
