"""The text that follows the image: question, options if offered, and how to answer. One wording for training
and evaluation.
"""

from surgr1.ontology.tasks import Task


def build_prompt(question: str, *, task: Task, options: tuple[str, ...] = (), reasoning: bool) -> str:
    """The user's text for one question.

    `options` are listed only when the protocol offers them. With `reasoning` the model is asked for the
    levels up to the task's own (`Task.level`) and for the tags of `trace.render`; without it for the answer
    block alone.
    """
    parts = [question.strip()]
    if options:
        parts.append(f"Options: {'; '.join(options)}.")
    if reasoning:
        levels = "level 1" if task.level == 1 else f"levels 1 to {task.level}"
        parts.append(f"Reason through {levels} in <think></think>, then answer in <answer></answer>.")
    else:
        parts.append("Answer in <answer></answer>.")
    return "\n".join(parts)
