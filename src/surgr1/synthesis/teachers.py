"""Who writes traces: a vision-language model behind an engine, or (`offline`) labels and the procedure's
knowledge alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Sample
from surgr1.engines.types import Engine, FinishReason, Request, Sampling
from surgr1.synthesis.conversations import prepared_answer
from surgr1.synthesis.prompts import knowledge_version, prompt_version, teacher_prompt
from surgr1.synthesis.statistics import Statistics


@dataclass(frozen=True)
class Written:
    """What a teacher wrote for a sample: a trace as text, or the error instead of one."""

    sample: Sample
    text: str
    finish_reason: FinishReason = "stop"
    error: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


class Teacher(Protocol):
    """Writes one trace per sample. `at_once` is how many samples it is given together."""

    @property
    def name(self) -> str: ...

    @property
    def at_once(self) -> int: ...

    def traces(
        self,
        samples: Sequence[Sample],
        images: Mapping[str, PreparedImage],
        attempt: int,
        failed: Mapping[str, Sequence[str]],
    ) -> Iterator[Written]:
        """In any order. `failed` holds the reasons for which a sample's last trace was rejected."""
        ...


def teacher_requests(
    samples: Sequence[Sample],
    images: Mapping[str, PreparedImage],
    statistics: Mapping[str, Statistics],
    failed: Mapping[str, Sequence[str]],
) -> list[Request]:
    """What a model is asked; `failed` holds the reasons for which a sample's last trace was rejected."""
    return [
        Request(
            s.sample_id,
            teacher_prompt(
                s,
                prepared_answer(s, images[s.sample_id]),
                statistics=statistics.get(s.procedure),
                failed=failed.get(s.sample_id, ()),
            ),
            (images[s.sample_id].path,),
            s.policy,
        )
        for s in samples
    ]


def teacher_sampling(max_new_tokens: int, temperature: float, *, attempt: int) -> Sampling:
    """How a model is sampled: another seed for every attempt."""
    return Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=attempt)


class ModelTeacher:
    """A vision-language model behind an engine (an endpoint, its batch API, or a model on this machine),
    asked under the paper's surgery-wise constraints (Methods, "Surgery-Aware CoT Synthesis").
    """

    def __init__(
        self,
        engine: Engine,
        *,
        statistics: Mapping[str, Statistics],
        max_new_tokens: int = 1024,
        temperature: float = 0.7,
        at_once: int = 4096,
    ) -> None:
        self._engine, self._statistics, self.at_once = engine, statistics, at_once
        self._max_new_tokens, self._temperature = max_new_tokens, temperature

    @property
    def name(self) -> str:
        return self._engine.model

    def traces(
        self,
        samples: Sequence[Sample],
        images: Mapping[str, PreparedImage],
        attempt: int,
        failed: Mapping[str, Sequence[str]],
    ) -> Iterator[Written]:
        by_id = {s.sample_id: s for s in samples}
        requests = teacher_requests(samples, images, self._statistics, failed)
        sampling = teacher_sampling(self._max_new_tokens, self._temperature, attempt=attempt)
        for request, (completion,) in self._engine.generate(requests, sampling):
            sample = by_id[request.request_id]
            error = completion.error or "no answer"
            yield Written(
                sample,
                completion.text,
                completion.finish_reason,
                error if completion.finish_reason in ("error", "blocked") else "",
                {
                    "prompt": prompt_version(),
                    "knowledge": knowledge_version(sample.procedure, self._statistics.get(sample.procedure)),
                    "tokens": f"{completion.tokens_in}+{completion.tokens_out}",
                },
            )
