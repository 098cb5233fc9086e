"""What a teacher model is told (paper, Methods, "Surgery-Aware CoT Synthesis"): knowledge as reference,
observation first, label as implicit target.
"""

from surgr1.corpora.schema import Sample
from surgr1.ontology.procedures import load_procedure

VERSION = "1"


def teacher_prompt(sample: Sample, answer: str) -> str:
    """The whole instruction for one sample. `answer` is the label with boxes in pixels of the picture that is
    sent.
    """
    procedure = load_procedure(sample.procedure)
    looks = "\n".join(
        f"- {e.name}: {e.color}, {e.shape}, {e.texture}" for e in (*procedure.tools, *procedure.tissues)
    )
    acts = "\n".join(f"- {a.name}: {a.definition}" for a in (*procedure.phases, *procedure.actions))
    criteria = "\n".join(f"- {c.name}: {c.definition}" for c in procedure.criteria)
    levels = [
        "Level 1: which instruments and structures you see, with colour, shape, texture and position.",
        "Level 2: what each instrument does to which structure.",
        "Level 3: what this means for the operation as a whole.",
    ][: sample.level]
    return "\n".join(
        [
            f"You look at one frame of a {procedure.name} and explain it to a surgeon.",
            f"Question: {sample.question}",
            "Reference knowledge (for wording only; where the image differs, trust the image):",
            looks,
            acts,
            criteria,
            (
                "Describe only what is visible, then reason forward from it to the answer. Never mention that"
                " an answer was given to you, never"
            ),
            "argue backwards from it, and do not state it before the last level.",
            f"Your reasoning must arrive at: {answer}",
            f"Write exactly these levels and stop at Level {sample.level}:",
            *levels,
            f"Format: <think>Level 1: …</think><answer>{answer}</answer>",
        ]
    )
