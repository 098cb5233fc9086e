"""The reward of Eq. 4: format, exact answer, structure. Pure functions of a completion, and TRL's form of
them.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import AnswerSpec, extract, spec_for
from surgr1.reasoning.trace import Outcome, parse
from surgr1.synthesis.validate import is_right

NAMES = ("format", "answer", "structure")


class RewardWeights(BaseModel):
    """lambda_f, lambda_a, lambda_s of Eq. 4. The structure reward is given before step `structure_steps` and
    then switched off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: float = Field(0.2, ge=0)
    answer: float = Field(1.0, gt=0)
    structure: float = Field(0.1, ge=0)
    structure_steps: int = Field(20, ge=0)

    def at(self, step: int) -> tuple[float, float, float]:
        """The weights in force at an optimizer step: a pure function of it, so a resumed run needs no further
        state.
        """
        return self.format, self.answer, self.structure if step < self.structure_steps else 0.0


def format_reward(text: str, task: Task, finish_reason: str = "stop") -> float:
    """1 for the whole hierarchical form of the task (`ParsedTrace.is_format`), else 0."""
    return float(parse(text, finish_reason=finish_reason).is_format(task.level))


def answer_reward(text: str, label: str, spec: AnswerSpec) -> float:
    """1 when the one answer block holds exactly the label. An answer that had to be repaired, or one of
    several blocks, earns nothing.
    """
    parsed = parse(text)
    if parsed.answer_blocks != 1 or parsed.outcome is not Outcome.OK:
        return 0.0
    found = extract(parsed, spec)
    return float(found.outcome is Outcome.OK and is_right(found.value, label, spec))


def structure_reward(text: str) -> float:
    """1 when the reasoning has a "Level 1" heading with something under it. The opener "This is a Level 1
    task" does not count.
    """
    parsed = parse(text)
    return float(1 in parsed.headed and bool(parsed.levels[1].strip()))


def trl_rewards() -> list[Callable[..., list[float]]]:
    """The three components in the order of `NAMES`, called by TRL with completions and the data set's
    columns.
    """

    def texts(completions: list[Any]) -> list[str]:
        return [c if isinstance(c, str) else c[0]["content"] for c in completions]

    def format_(completions: list[Any], task: list[str], **_: Any) -> list[float]:
        return [format_reward(t, Task(k)) for t, k in zip(texts(completions), task, strict=True)]

    def answer(
        completions: list[Any],
        task: list[str],
        answer: list[str],
        options: list[list[str]],
        dataset: list[str],
        **_: Any,
    ) -> list[float]:
        rows = zip(texts(completions), task, answer, options, dataset, strict=True)
        return [answer_reward(t, a, spec_for(Task(k), o, d)) for t, k, a, o, d in rows]

    def structure(completions: list[Any], **_: Any) -> list[float]:
        return [structure_reward(t) for t in texts(completions)]

    functions: list[Callable[..., list[float]]] = [format_, answer, structure]
    for function, name in zip(functions, NAMES, strict=True):
        function.__name__ = name
    return functions
