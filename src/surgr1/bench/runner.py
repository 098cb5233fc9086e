"""Ask an engine every sample's question, write one row of `bench.predictions` per completion as it arrives,
continue where a killed run stopped.
"""

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from surgr1.bench.coordinates import EXAMPLES, Coordinates
from surgr1.bench.predictions import (
    Form,
    completion_of,
    prediction_row,
    prompt_sha,
    read_predictions,
)
from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Sample
from surgr1.engines.types import Engine, Request, Sampling
from surgr1.ontology.tasks import Task
from surgr1.reasoning.answers import Kind, spec_for
from surgr1.reasoning.prompt import build_prompt
from surgr1.reasoning.trace import Trace, render

MOST_OPTIONS = 20
"""A longer list of answers is not put into a prompt; such a question is asked open, and its row says so."""

_EXAMPLES: Mapping[Kind, tuple[str, str]] = {
    "label": ("Which meal is on the table?", "breakfast"),
    "labels": ("Which objects are on the table?", "cup, spoon"),
    "triplets": ("Which tool does what to which food?", "knife slice bread; spoon stir soup"),
    "box": ("Where is the cup? Give its box.", ""),
    "yes_no": ("Is the cup full?", "yes</answer> or <answer>no"),
    "count": ("How many cups are on the table?", "3"),
    "text": ("Which meal is on the table?", "breakfast"),
}
"""The form of an answer shown on another subject, so that no label is made likelier."""


@dataclass(frozen=True)
class Asking:
    """The form in which a model is asked.

    `letters`: single-choice options are offered as A), B), ...; `shuffle`: the seed by which every question's
    options are put in an order of their own (None: the list's); `one_shot`: an example of the answer's form
    from another subject comes first; `native`: a fine-tuned model's own prompts, which replace ours for their
    tasks; `system`: the system turn; `box_instruction` follows the question of a localisation task and names
    the frame in which `coordinates` says that the model answers.
    """

    letters: bool = False
    shuffle: int | None = None
    one_shot: bool = False
    native: Mapping[Task, str] = field(default_factory=dict)
    system: str = ""
    coordinates: Coordinates = "grid"
    box_instruction: str = ""

    def lettered(self, sample: Sample) -> bool:
        """Whether an offered sample's options have letters."""
        return self.letters and sample.protocol == "options" and spec_for(sample.task).kind == "label"

    def form(self, sample: Sample) -> Form:
        """The kind of prompt that a sample gets."""
        return "native" if sample.task in self.native else "one-shot" if self.one_shot else "plain"


def offered(sample: Sample, asking: Asking) -> Sample:
    """The sample with its options in the order in which they are offered; open where there is no list or it
    is too long.
    """
    if sample.protocol == "open" or not 0 < len(sample.options) <= MOST_OPTIONS:
        return replace(sample, protocol="open")
    options = list(sample.options)
    if asking.shuffle is not None:
        digest = hashlib.sha256(f"{asking.shuffle}|{sample.sample_id}".encode()).digest()
        random.Random(int.from_bytes(digest[:8], "big")).shuffle(options)
    return replace(sample, options=tuple(options))


def request_of(sample: Sample, image: PreparedImage, asking: Asking, *, reasoning: bool) -> Request:
    """The request of an offered sample."""
    options = sample.options if sample.protocol == "options" else ()
    if asking.lettered(sample):
        options = tuple(f"{chr(65 + k)}) {name}" for k, name in enumerate(options))
    question = sample.question
    box = spec_for(sample.task).kind == "box"
    if asking.form(sample) == "native":
        prompt = asking.native[sample.task].format(
            question=question, focus=sample.focus, options="; ".join(options)
        )
    else:
        if box and asking.box_instruction:
            frame = asking.box_instruction.format(width=image.width, height=image.height)
            question = f"{question}\n{frame}"
        prompt = build_prompt(question, task=sample.task, options=options, reasoning=reasoning)
        if asking.form(sample) == "one-shot":
            prompt = f"{_example(sample, asking, reasoning=reasoning)}\n\n{prompt}"
    return Request(sample.sample_id, prompt, (image.path,), sample.policy, asking.system)


def _example(sample: Sample, asking: Asking, *, reasoning: bool) -> str:
    kind = spec_for(sample.task).kind
    question, answer = _EXAMPLES[kind]
    if kind == "box":
        answer = EXAMPLES[asking.coordinates]
    if asking.lettered(sample):
        answer = "B"
    levels = dict.fromkeys(range(1, sample.level + 1), "...") if reasoning else {}
    return (
        "An example of the form of an answer, about another picture:\n"
        f"{question}\n{render(Trace(levels, answer))}\nNow answer about this picture in the same form."
    )


def predict(
    samples: Iterable[Sample],
    images: Mapping[str, PreparedImage],
    engine: Engine,
    out: Path,
    *,
    reasoning: bool,
    sampling: Sampling,
    asking: Asking | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Answer every sample `sampling.n` times and append the rows to `out` (JSON Lines). What is answered is
    kept, with the facts of the sample as they are now; failed answers, and answers of another model or to
    another prompt, are asked again.

    Returns the number of rows in the file. `images` maps sample ids to pictures as they are sent. Raises
    PredictionError when `out` holds a damaged line.
    """
    asking = asking or Asking()
    asked = {s.sample_id: offered(s, asking) for s in samples}
    requests = {k: request_of(s, images[k], asking, reasoning=reasoning) for k, s in asked.items()}

    def row(request: Request, completion: Any, index: int) -> str:
        sample = asked[request.request_id]
        found = prediction_row(
            sample,
            images[request.request_id],
            request,
            completion,
            reasoning=reasoning,
            coordinates=asking.coordinates,
            letters=asking.lettered(sample),
            form=asking.form(sample),
            sample_index=index,
        )
        return json.dumps(found) + "\n"

    wanted = range(sampling.first, sampling.first + sampling.n)
    have: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for old in read_predictions(out) if out.is_file() else ():
        name, index = old["sample_id"], old["sample_index"]
        request = requests.get(name)
        if (
            request is not None
            and index in wanted
            and old["text"] is not None
            and old["finish_reason"] != "error"
            and old["model"] == engine.model
            and old["prompt_sha"] == prompt_sha(request)
        ):
            have[name][index] = row(request, completion_of(old), index)
    # A question is asked whole: an engine with a ledger then asks for what is missing alone.
    kept = {name: lines for name, lines in have.items() if len(lines) == sampling.n}
    done, total = len(kept) * sampling.n, len(asked) * sampling.n
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text("".join(line for lines in kept.values() for line in lines.values()), encoding="utf-8")
    part.replace(out)
    missing = [r for name, r in requests.items() if name not in kept]
    with out.open("a", encoding="utf-8") as file:
        for request, completions in engine.generate(missing, sampling) if missing else ():
            file.write("".join(row(request, c, k) for k, c in zip(wanted, completions, strict=True)))
            file.flush()
            done += len(completions)
            if progress:
                progress(done, total)
    return done
