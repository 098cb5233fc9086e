"""The knowledge of every procedure: nothing that a dataset labels is missing, every neighbour is told apart,
sources are cited; the steps of the gastric bypass against published label files; the criteria of the critical
view of safety against Strasberg's wording.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from surgr1.ontology.procedures import Activity, Procedure, Verb, load_procedure, procedure_names
from surgr1.ontology.vocabularies import has_vocabulary, triplet_parts, vocabulary

CHOLECYSTECTOMY = "laparoscopic cholecystectomy"
BYPASS = "laparoscopic roux-en-y gastric bypass"
OPERATIONS = {
    CHOLECYSTECTOMY: (
        "cholec80",
        "cholect45",
        "cholect50",
        "cholectrack20",
        "cholec-instance-seg",
        "endoscapes",
    ),
    BYPASS: ("multibypass140",),
    "laparoscopic hysterectomy": ("autolaparo", "autolaparo-motion", "autolaparo-localization"),
    "robot-assisted radical prostatectomy": ("sar-rarp50", "grasp", "psi-ava-vqa"),
    "robot-assisted nephrectomy": ("endovis18", "endovis18-vqa", "endovis18-vqla"),
    "robotic porcine procedure": ("endovis17", "endovis17-vqla"),
    "robot-assisted rectal resection": ("dsad",),
    "endoscopic pituitary surgery": ("pitvqa",),
    "endoscopic submucosal dissection": ("copesd",),
    "colonoscopy": ("segcol",),
}
"""What each dataset shows (datasets-a.md, datasets-b.md). Sleeve gastrectomy has no public dataset."""

NAMES = {
    "verb": lambda p: {v.name for v in p.verbs},
    "phase": lambda p: {a.name for a in p.phases},
    "step": lambda p: {a.name for a in p.steps},
    "action": lambda p: {a.name for a in p.actions},
}

every_procedure = pytest.mark.parametrize("name", procedure_names())


def parts(procedure: Procedure) -> tuple[Verb | Activity, ...]:
    return (*procedure.verbs, *procedure.phases, *procedure.steps, *procedure.actions)


def sentences(procedure: Procedure) -> Iterator[tuple[str, str]]:
    """(where it stands, sentence) of what is told in sentences."""
    for part in parts(procedure):
        yield part.name, part.definition
        yield from ((f"{part.name} / {other}", text) for other, text in part.apart.items())
    for criterion in procedure.criteria:
        yield from ((criterion.id, text) for text in (*criterion.cleared, *criterion.imitations))


@pytest.mark.parametrize(
    ("name", "dataset"), [(name, dataset) for name, known in OPERATIONS.items() for dataset in known]
)
def test_everything_a_dataset_labels_is_described(name: str, dataset: str) -> None:
    """A rest class ("other" tool or verb, "null target") has no looks and no meaning of its own."""
    procedure = load_procedure(name)
    for kind in ("tool", "target", "tissue"):
        if has_vocabulary(dataset, kind):
            words = set(vocabulary(dataset, kind).names) - {"other", "null target"}
            assert not {w for w in words if procedure.entity(w) is None}, kind
    for kind, names in NAMES.items():
        if has_vocabulary(dataset, kind):
            rest = {"other"} if kind == "verb" else set()
            assert not set(vocabulary(dataset, kind).names) - names(procedure) - rest, kind


def test_every_triplet_of_cholect50_can_be_told() -> None:
    procedure = load_procedure(CHOLECYSTECTOMY)
    tools, verbs = {t.name for t in procedure.tools}, {v.name for v in procedure.verbs}
    for triplet in vocabulary("cholect50", "triplet").names:
        tool, verb, target = triplet_parts(triplet)
        assert tool in tools
        assert verb in verbs
        assert target == "null target" or procedure.entity(target)


@every_procedure
def test_every_tool_and_tissue_has_looks_of_its_own(name: str) -> None:
    procedure = load_procedure(name)
    for entities in (procedure.tools, procedure.tissues):
        looks = Counter((e.color, e.shape, e.texture) for e in entities)
        assert not [look for look in looks if not all(look)]
        assert not [look for look, times in looks.items() if times > 1]


@every_procedure
def test_every_verb_phase_step_and_action_is_defined_and_told_apart(name: str) -> None:
    for part in parts(load_procedure(name)):
        assert part.definition, part.name
        assert part.apart, part.name
        assert part.name not in part.apart


@every_procedure
def test_what_may_follow_a_phase_is_told_apart_from_it(name: str) -> None:
    procedure = load_procedure(name)
    for phase in procedure.phases:
        told = set(phase.apart) | {p.name for p in procedure.phases if phase.name in p.apart}
        assert not set(phase.next) - told - {phase.name}, phase.name


@every_procedure
def test_sentences_are_plain_sentences_without_numbers_or_advice(name: str) -> None:
    said = list(sentences(load_procedure(name)))
    advice = re.compile(r"\b(should|must|recommend\w*|advis\w+|be careful|ground truth|label\w*)\b")
    for place, text in said:
        assert re.fullmatch(r"[A-Z][ -~]{15,}\.", text), (place, text)
        assert not re.search(r"\d", text), (place, text)
        assert not advice.search(text), (place, text)
    told = Counter(text for place, text in said if "/" in place)
    assert not [text for text, times in told.items() if times > 1]


@every_procedure
def test_sources_are_cited_in_full_and_what_is_ours_is_said_to_be(name: str) -> None:
    sources = load_procedure(name).sources
    cited = re.compile(r"\b(19|20)\d\d\b|datasets-[ab]\.md \d")
    assert sum(bool(cited.search(s)) for s in sources) >= 2
    assert any(re.search(r"\b[Oo]urs\b|\bown words\b", s) for s in sources)


# --- MultiBypass140: sequences of real operations ---


def step_sequences(real_samples: Path) -> list[list[str]]:
    folder = real_samples / "multibypass140" / "labels"
    files = sorted(folder.glob("*/labels_by70/*.json"))
    assert len(files) == 16
    words = vocabulary("multibypass140", "step")
    bodies = [json.loads(f.read_text())["steps"] for f in files]
    return [
        [words.from_native(s["label_name"]) for s in sorted(body, key=lambda s: s["start"])]
        for body in bodies
    ]


def phase_sequences(real_samples: Path) -> list[list[str]]:
    """Without the files' stretches that are no phase ("out_of_body", "severe_index")."""
    words = vocabulary("multibypass140", "phase")
    bodies = [
        json.loads(f.read_text())["phases"]
        for f in sorted((real_samples / "multibypass140" / "labels").glob("*/labels_by70/*.json"))
    ]
    return [
        [
            words.from_native(p["label_name"])
            for p in sorted(body, key=lambda p: p["start"])
            if p["label_name"] in words.native
        ]
        for body in bodies
    ]


def test_phases_follow_each_other_in_published_labels_as_the_knowledge_allows(real_samples: Path) -> None:
    phases = load_procedure(BYPASS).phases
    allowed = {p.name: set(p.next) for p in phases}
    pairs = [(a, b) for found in phase_sequences(real_samples) for a, b in pairwise(found) if a != b]
    assert len(pairs) >= 70
    assert not {(a, b) for a, b in pairs if b not in allowed[a]}
    # Were everything allowed, this would hold of anything.
    assert sum(len(p.next) for p in phases) < 0.45 * len(phases) * (len(phases) - 1)
    backwards = [(b, a) for a, b in pairs]
    assert sum(b not in allowed[a] for a, b in backwards) > 0.4 * len(backwards)


def test_the_steps_are_the_46_of_multibypass140_in_their_order() -> None:
    names = [s.name for s in load_procedure(BYPASS).steps]
    assert names == list(vocabulary("multibypass140", "step").names)
    assert len(names) == 46


def test_steps_follow_each_other_in_published_labels_as_the_knowledge_allows(real_samples: Path) -> None:
    allowed = {s.name: set(s.next) for s in load_procedure(BYPASS).steps}
    seen = Counter(
        (before, after)
        for sequence in step_sequences(real_samples)
        for before, after in pairwise(sequence)
        if before != after
    )
    assert sum(seen.values()) > 400
    assert not {pair: times for pair, times in seen.items() if pair[1] not in allowed[pair[0]]}


def test_allowed_steps_are_few_enough_to_say_something(real_samples: Path) -> None:
    """Were everything allowed, the test above would hold of anything."""
    steps = load_procedure(BYPASS).steps
    assert sum(len(s.next) for s in steps) < 0.12 * len(steps) * len(steps)
    backwards = Counter(
        (after, before)
        for sequence in step_sequences(real_samples)
        for before, after in pairwise(sequence)
        if before != after
    )
    allowed = {s.name: set(s.next) for s in steps}
    refused = sum(times for pair, times in backwards.items() if pair[1] not in allowed[pair[0]])
    assert refused > 0.6 * sum(backwards.values())


# --- The critical view of safety ---

ASKED = {
    "C1": (r"\b[Tt]wo tubes\b", r"gallbladder", r"common bile duct"),
    "C2": (r"\bfat\b", r"\bneck\b", r"\bfat\b"),
    "C3": (r"lowest third|lower third", r"\bplate\b", r"liver"),
}
"""Criterion -> what its `cleared` has to speak of, twice, and what its `imitations` have to. Strasberg and
Brunt 2010: two and only two structures enter the gallbladder; the triangle is cleared of fat and fibrous
tissue; the lowest part of the gallbladder is off the plate. They name the common bile duct taken for the
cystic duct.
"""


@pytest.mark.parametrize("criterion", ["C1", "C2", "C3"])
def test_each_criterion_says_what_counts_and_what_only_looks_like_it(criterion: str) -> None:
    found = next(c for c in load_procedure(CHOLECYSTECTOMY).criteria if c.id == criterion)
    first, second, imitated = ASKED[criterion]
    cleared, imitations = " ".join(found.cleared), " ".join(found.imitations)
    assert re.search(first, cleared)
    assert re.search(second, cleared)
    assert re.search(imitated, imitations)
    assert len(found.cleared) >= 3
    assert len(found.imitations) >= 4
    said = [*found.cleared, *found.imitations, *found.met, *found.unmet]
    assert len({s.rstrip(".").lower() for s in said}) == len(said)


def test_no_other_operation_has_criteria() -> None:
    assert [n for n in procedure_names() if load_procedure(n).criteria] == [CHOLECYSTECTOMY]
