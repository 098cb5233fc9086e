"""Deterministic choice of samples: balanced for training, natural for evaluation."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from surgr1.corpora.schema import Sample


def rank(name: object, seed: int) -> str:
    """A position that depends on the name and the seed alone, so adding a dataset moves no other sample."""
    return hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()


def _round_robin(groups: Sequence[Sequence[Sample]], limit: int) -> list[Sample]:
    """One from each group in turn until `limit` are taken or all are empty."""
    taken: list[Sample] = []
    for turn in range(max((len(g) for g in groups), default=0)):
        for group in groups:
            if len(taken) == limit:
                return taken
            if turn < len(group):
                taken.append(group[turn])
    return taken


def _grouped(samples: Iterable[Sample], key: Callable[[Sample], Hashable], seed: int) -> list[list[Sample]]:
    """Groups and their members in drawn order. In sorted order, a limit below the number of groups would take
    only the answers that come first in the alphabet (boxes at the left, say).
    """
    groups: defaultdict[Hashable, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: rank(s.sample_id, seed)):
        groups[key(sample)].append(sample)
    return [groups[k] for k in sorted(groups, key=lambda k: rank(k, seed))]


def balanced(samples: Iterable[Sample], limit: int, seed: int = 0) -> list[Sample]:
    """At most `limit` samples, equal over (dataset, task, focus) and, inside each, over answers (rare answers
    first served).
    """
    by_task = _grouped(
        samples, lambda s: (s.dataset, s.task, s.focus if s.task.endswith("assessment") else ""), seed
    )
    spread = [_round_robin(_grouped(g, lambda s: s.answer, seed), len(g)) for g in by_task]
    return _round_robin(spread, limit)


def spread_over_videos(samples: Iterable[Sample], limit: int, seed: int = 0) -> list[Sample]:
    """At most `limit` samples with the natural answer distribution, the same number from every video where
    possible.

    Frames are kept whole: all questions of one chosen frame with the same task (the three CVS criteria, say)
    stay together.
    """
    samples = list(samples)
    frames: defaultdict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        frames[(sample.video, sample.frame)].append(sample)
    first = [group[0] for group in frames.values()]
    order = _round_robin(_grouped(first, lambda s: s.video, seed), len(first))
    taken: list[Sample] = []
    for head in order:
        group = sorted(frames[(head.video, head.frame)], key=lambda s: (s.task, s.focus, s.sample_id))
        if len(taken) + len(group) > limit:
            break
        taken.extend(group)
    return taken
