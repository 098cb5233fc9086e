"""Are the statements of a trace supported by the labels of its frame? The counterpart of `bench.statements`,
which asks the simulated scene: labels say less, so much stays "unlabelled", and nothing is guessed.

Closed world only where a dataset labels completely: a tool of its vocabulary that the labels do not hold is
refuted, one outside the vocabulary (CholecT50 has no specimen bag) is unlabelled.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from surgr1.ontology.procedures import Procedure
from surgr1.ontology.vocabularies import has_vocabulary, layout_of, vocabulary
from surgr1.reasoning.findings import THINGS
from surgr1.reasoning.lexicon import ANY, NULL
from surgr1.reasoning.statements import Statement, read_text

Verdict = Literal["supported", "refuted", "unlabelled"]
_Box = tuple[float, float, float, float]
_MIDDLE = 0.05
"""A box whose centre lies within this share of the picture's side from a middle line is on both sides."""
HOLDING = {("grasp", "retract")}
"""(said, labelled): what is retracted is held, though CholecT50 labels only one verb."""


class NamedBox(Protocol):
    """A labelled box (`corpora.schema.LabelledBox`; reasoning may not import corpora)."""

    @property
    def name(self) -> str: ...
    @property
    def xyxy(self) -> _Box: ...


class LabelView(Protocol):
    """The part of `corpora.schema.Labels` that statements are held against."""

    @property
    def tools(self) -> tuple[str, ...] | None: ...
    @property
    def tissues(self) -> tuple[str, ...] | None: ...
    @property
    def triplets(self) -> tuple[tuple[str, str, str], ...] | None: ...
    @property
    def phase(self) -> str | None: ...
    @property
    def step(self) -> str | None: ...
    @property
    def action(self) -> str | None: ...
    @property
    def boxes(self) -> "tuple[NamedBox, ...] | None": ...
    @property
    def cvs(self) -> tuple[bool | None, bool | None, bool | None] | None: ...


@dataclass(frozen=True)
class Seen:
    """What is known of one frame: its labels, whose they are, the picture's size (pixels of the stored image,
    as the boxes) and the number of instrument instances where a question gave it.
    """

    labels: LabelView
    dataset: str
    procedure: Procedure
    width: int
    height: int
    instruments: int | None = None

    def named(self, kind: str) -> frozenset[str]:
        """The names of a kind that this dataset labels completely."""
        return _closed(self.dataset, kind, self.procedure)


@dataclass(frozen=True)
class Judged:
    """`reason` says what the labels hold instead, or why they say nothing; `by_tools` whether a deed or a
    count is judged by the labels of tools alone.
    """

    statement: Statement
    verdict: Verdict
    reason: str = ""
    by_tools: bool = False


def judge(statements: Iterable[Statement], seen: Seen) -> list[Judged]:
    """One verdict per statement, in order."""
    return [_judged(s, seen) for s in statements]


def same_thing(said: str, labelled: str) -> bool:
    """Whether a name means a label: itself, or its general name ("needle driver" for a "large needle
    driver", "blood vessel" for an artery).
    """
    if said == "blood vessel" and labelled.endswith(("artery", "vein", "vessel", "venous complex")):
        return True
    # Of tools also the first word: "the bipolar", "the suction".
    first = said in ("bipolar", "suction", "prograsp", "monopolar")
    return said == labelled or labelled.endswith(f" {said}") or (first and labelled.startswith(f"{said} "))


class _Finding(NamedTuple):
    """Whether the claim (before negation) holds, None if the labels leave it open; what they say; whether it
    is the labels of tools that decide.
    """

    holds: bool | None
    reason: str
    by_tools: bool = False


def _judged(statement: Statement, seen: Seen) -> Judged:
    if statement.kind == "other":
        return Judged(statement, "unlabelled", "not read")
    holds, reason, by_tools = _RULES[statement.kind](statement, seen)
    if holds is None:
        return Judged(statement, "unlabelled", reason, by_tools)
    return Judged(statement, "supported" if holds != statement.negated else "refuted", reason, by_tools)


@lru_cache
def _closed(dataset: str, kind: str, procedure: Procedure) -> frozenset[str]:
    if has_vocabulary(dataset, kind):
        return frozenset(vocabulary(dataset, kind).names)
    if layout_of(dataset) == "sar-rarp50":
        # Its masks tell instruments apart only in part.
        return frozenset()
    parts = {"tool": procedure.tools, "tissue": procedure.tissues}[kind]
    return frozenset(e.name for e in parts)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "none"


def _in(name: str, names: Iterable[str]) -> bool:
    return any(same_thing(name, n) for n in names)


def _tool(s: Statement, seen: Seen) -> _Finding:
    tools = seen.labels.tools
    if tools is None:
        return _Finding(None, "tools are not labelled")
    reason = f"tools labelled: {_listed(tools)}"
    if s.subject == ANY:
        return _Finding(bool(tools), reason)
    if _in(s.subject, tools):
        return _Finding(True, reason)
    if any(s.subject == target for _, _, target in seen.labels.triplets or ()):
        return _Finding(True, reason)
    if _loosely(s, seen):
        return _Finding(None, f"{s.subject} is not named in full")
    if _excluded(s.subject, seen):
        return _Finding(False, reason)
    return _Finding(None, f"{s.subject} is not labelled")


_LOOSE = {
    "grasper": ("forceps",),
    "irrigator": ("suction", "suctioning"),
    "needle driver": ("driver",),
    "specimen bag": ("bag",),
}
"""Short names that surgeons give to several things: alone they refute nothing."""


def _loosely(s: Statement, seen: Seen) -> bool:
    """Whether the statement has only a short name that may mean another tool."""
    entity = seen.procedure.entity(s.subject)
    full = (s.subject, *(entity.aliases if entity else ()))
    words = f" {s.text} "
    return any(f" {w} " in words for w in _LOOSE.get(s.subject, ())) and not any(
        f" {name} " in words for name in full if name not in _LOOSE.get(s.subject, ())
    )


def _excluded(tool: str, seen: Seen) -> bool:
    """Whether labels that do not hold this tool say that it is not there: the dataset would have labelled
    it, or no such tool belongs to this operation.
    """
    return _in(tool, seen.named("tool")) or not _in(tool, [e.name for e in seen.procedure.tools])


def _tissue(s: Statement, seen: Seen) -> _Finding:
    targets = {target for _, _, target in seen.labels.triplets or ()}
    tissues = seen.labels.tissues
    if s.negated and s.subject == "blood vessel":
        # "It is the ureter and no vessel": which vessel, is not said.
        return _Finding(None, "of no vessel by name")
    if s.subject in targets or (tissues is not None and _in(s.subject, tissues)):
        return _Finding(True, "labelled")
    if tissues is None:
        return _Finding(None, "structures are not labelled")
    reason = f"structures labelled: {_listed(tissues)}"
    if s.subject == ANY:
        return _Finding(bool(tissues), reason)
    if s.subject in seen.named("tissue"):
        return _Finding(False, reason)
    return _Finding(None, f"{s.subject} is not labelled")


def _place(s: Statement, seen: Seen) -> _Finding:
    boxes = [b for b in seen.labels.boxes or () if s.subject == ANY or same_thing(s.subject, b.name)]
    if not boxes:
        return _Finding(None, f"{s.subject} has no box")
    if s.object == "centre":
        return _Finding(None, "no rule says how large the centre is")
    sides = [_sides(b.xyxy, seen) for b in boxes]
    reason = f"{s.subject} is at: {_listed('-'.join(sorted(found)) for found in sides)}"
    return _Finding(any(set(s.object.split("-")) <= found for found in sides), reason)


def _sides(box: _Box, seen: Seen) -> set[str]:
    """left / right and top / bottom of a box's centre; both of a pair near the middle."""
    found = set()
    for low, high, first, second, side in (
        (box[0], box[2], "left", "right", seen.width),
        (box[1], box[3], "top", "bottom", seen.height),
    ):
        middle = (low + high) / 2 / side
        found |= {first} if middle < 0.5 + _MIDDLE else set()
        found |= {second} if middle > 0.5 - _MIDDLE else set()
    return found


def _deed(s: Statement, seen: Seen) -> _Finding:
    deeds, tools = seen.labels.triplets, seen.labels.tools
    if tools is not None and s.subject not in ("", ANY) and not s.negated:
        present = _tool(s, seen)
        if present.holds is False:
            return present._replace(by_tools=True)
    if deeds is None:
        return _Finding(None, "deeds are not labelled")
    reason = f"deeds labelled: {_listed(' '.join(d) for d in deeds)}"
    if s.subject == ANY:
        return _Finding(any(verb != NULL for _, verb, _ in deeds), reason)
    if s.predicate == "touch":
        touching = any(verb != NULL and _does(s, tool, target) for tool, verb, target in deeds)
        return _Finding((True if touching else None), reason)
    if s.predicate == NULL:
        mine = [verb for tool, verb, _ in deeds if same_thing(s.subject, tool)]
        return _Finding((NULL in mine if mine else None), reason)
    if s.subject and not any(same_thing(s.subject, tool) for tool, _, _ in deeds):
        # Present, but nobody labelled what it does.
        return _Finding(None, reason)
    said = s.predicate
    holds = any(
        (verb == said or (said, verb) in HOLDING) and _does(s, tool, target) for tool, verb, target in deeds
    )
    # Without a target the object may be one that is not read ("its heel lifting strands").
    return _Finding((holds if s.object or holds else None), reason)


def _does(s: Statement, tool: str, target: str) -> bool:
    mine = not s.subject or same_thing(s.subject, tool)
    return mine and (not s.object or same_thing(s.object, target))


def _activity(s: Statement, seen: Seen) -> _Finding:
    labels = seen.labels
    true = {"phase": labels.phase, "step": labels.step, "action": labels.action}[s.kind]
    if true is None:
        return _Finding(None, f"the {s.kind} is not labelled")
    return _Finding(s.subject == true, f"{s.kind} labelled: {true}")


def _criterion(s: Statement, seen: Seen) -> _Finding:
    cvs = seen.labels.cvs
    if cvs is None:
        return _Finding(None, "criteria are not labelled")
    reason = f"criteria labelled as met: {_listed(f'C{k + 1}' for k, met in enumerate(cvs) if met)}"
    if s.subject in ("C1", "C2", "C3"):
        return _Finding(cvs[int(s.subject[1]) - 1], reason)
    if s.subject == "all":
        return _Finding((False if False in cvs else None if None in cvs else True), reason)
    return _Finding((True if True in cvs else None if None in cvs else False), reason)


def _count(s: Statement, seen: Seen) -> _Finding:
    number = int(s.object)
    if s.subject == "criteria":
        cvs = seen.labels.cvs
        if cvs is None or None in cvs:
            return _Finding(None, "criteria are not labelled")
        return _Finding(sum(map(bool, cvs)) == number, f"criteria met: {sum(map(bool, cvs))}")
    tools = seen.labels.tools
    if s.subject == "instrument" and seen.instruments is not None:
        return _Finding(number == seen.instruments, f"instruments labelled: {seen.instruments}")
    if tools is None:
        return _Finding(None, "tools are not labelled")
    if s.subject != "instrument" and not _in(s.subject, tools):
        holds = number == 0 if _excluded(s.subject, seen) else None
        return _Finding(holds, f"tools labelled: {_listed(tools)}", by_tools=True)
    boxes = [b.name for b in seen.labels.boxes or () if b.name in tools]
    if set(boxes) == set(tools):
        found = sum(s.subject == "instrument" or same_thing(s.subject, b) for b in boxes)
        return _Finding(number == found, f"{s.subject}: {found} labelled")
    # Labels of presence do not say how many there are of a kind, only how many kinds.
    least = len(tools) if s.subject == "instrument" else 1
    if number < least:
        return _Finding(False, f"tools labelled: {_listed(tools)}", by_tools=True)
    return _Finding((True if number == least else None), "instances are not labelled")


def _cue(s: Statement, seen: Seen) -> _Finding:
    """A cue belongs to the activities and criteria whose own cues hold it. Things that are in many phases
    (clips, blood, a needle) belong to none.
    """
    if s.subject in _EVERYWHERE:
        return _Finding(None, f"{s.subject}: may be seen at any time")
    labels, known = seen.labels, _cues(seen.procedure)
    true = {
        *((kind, getattr(labels, kind)) for kind in ("phase", "action") if getattr(labels, kind) is not None),
        *(
            (f"C{k + 1}", "met" if met else "unmet")
            for k, met in enumerate(labels.cvs or ())
            if met is not None
        ),
    }
    asked = {kind for kind, _ in true}
    mine = {holds for owner, holds in known.get(s.subject, ()) if owner in true}
    if mine:
        return _Finding((None if len(mine) == 2 else mine.pop()), f"{s.subject}: a cue of what is labelled")
    others = {
        owner
        for owner, holds in known.get(s.subject, ())
        if owner[0] in asked and holds and not (owner[0] == "phase" and s.subject in _LASTING)
    }
    if others and not s.negated:
        return _Finding(False, f"{s.subject}: a cue of {_listed(name for _, name in others)}")
    return _Finding(None, f"{s.subject}: not labelled")


_EVERYWHERE = frozenset((*THINGS.values(), "needle held", "needle handled", "thread taut"))
_LASTING = frozenset(("bare bed", "organ divided", "omentum divided", "staple line across the stomach"))
"""What stays so in all later phases."""


@lru_cache
def _cues(procedure: Procedure) -> Mapping[str, frozenset[tuple[tuple[str, str], bool]]]:
    """Finding -> ((kind, name) of the activity or criterion whose cue states it, whether it is affirmed)."""
    found: dict[str, set[tuple[tuple[str, str], bool]]] = {}
    owners = [
        *((("phase", a.name), a.cues) for a in procedure.phases),
        *((("action", a.name), a.cues) for a in procedure.actions),
        *(((c.id, "met"), c.met) for c in procedure.criteria),
        *(((c.id, "unmet"), c.unmet) for c in procedure.criteria),
    ]
    for owner, sentences in owners:
        for sentence in sentences:
            for statement in read_text(sentence, 1, procedure):
                if statement.kind == "cue":
                    found.setdefault(statement.subject, set()).add((owner, not statement.negated))
    return {finding: frozenset(where) for finding, where in found.items()}


_RULES: Mapping[str, Callable[[Statement, Seen], _Finding]] = {
    "tool": _tool,
    "tissue": _tissue,
    "place": _place,
    "deed": _deed,
    "count": _count,
    "phase": _activity,
    "step": _activity,
    "action": _activity,
    "criterion": _criterion,
    "cue": _cue,
}
