"""From an answer text to a canonical answer, or to the reason why there is none (evaluation.md B10, steps
3-8), whatever kind of model wrote it.

One ladder for every task: the canonical spelling ("exact"), another spelling of it ("alias": the frozen alias
table, a plural or possessive s, written together or apart), a letter where the prompt offered letters, the
only label of a sentence ("mention"), a near spelling where that is asked for ("fuzzy"). The first three are
`ok` in the asked form; list marks, quotes, brackets, bold and a lead-in such as "The phase is" are form, not
content. What had to be dug out of JSON, LaTeX, a sentence or a text without tags is `repaired`.

Judgement calls, the same for all tasks:

- A label is not given where it is negated ("not preparation", "preparation has not begun"), set at another
  time ("before clipping and cutting") or under a refusal or a condition ("cannot tell whether it is ...").
- A label alone in a clause, or at its end after "is", "in" and the like, is stated. One stated label goes
  before labels that are only mentioned (explanations), unless one of those comes with a doubt ("or",
  "perhaps", "actually"). Two stated labels, or two mentioned and none stated, are ambiguous.
- What follows "because", "since" or "Explanation:" explains and is not read.
- Everyday words that are labels too (yes, no, true, false, other) count only where they are stated.
- In lists every item must be known: an unknown one makes the answer `oov`, "or" makes it `ambiguous`.
- A refusal counts as such only where no label is stated.

Modules, each using only those before it: `spelling`, `sentences`, `spec`, `wrapping`, `labels`, `lists`,
`triplets`, `boxes`, `numbers`, `ladder`.
"""

from surgr1.reasoning.answers.boxes import Box, format_box, iou, parse_boxes
from surgr1.reasoning.answers.ladder import extract, same_answer
from surgr1.reasoning.answers.spec import VOCABULARY_KIND, AnswerSpec, Extraction, Kind, spec_for
from surgr1.reasoning.answers.spelling import mentions, normalise
from surgr1.reasoning.answers.triplets import parse_triplets, triplet_components

__all__ = [
    "VOCABULARY_KIND",
    "AnswerSpec",
    "Box",
    "Extraction",
    "Kind",
    "extract",
    "format_box",
    "iou",
    "mentions",
    "normalise",
    "parse_boxes",
    "parse_triplets",
    "same_answer",
    "spec_for",
    "triplet_components",
]
