"""Properties of the answer parser over generated text: total, idempotent, order-free, never a guess."""

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgr1.bench.cards import all_cards
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import triplet_parts, vocabulary
from surgr1.reasoning.answers import (
    Extraction,
    extract,
    normalise,
    parse_boxes,
    parse_triplets,
    spec_for,
    triplet_components,
)
from surgr1.reasoning.trace import Outcome, parse


def cases(count):
    """So many examples, the same on every machine, however slow."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def named(task, dataset, kind, **more):
    return spec_for(task, vocabulary(dataset, kind).names, dataset, **more)


PHASE = named(Task.PHASE_RECOGNITION, "cholec80", "phase")
LETTERS = replace(PHASE, letters=True)
BYPASS = named(Task.PHASE_RECOGNITION, "multibypass140", "phase")
STEP = named(Task.STEP_RECOGNITION, "multibypass140", "step")
ACTION = named(Task.ACTION_RECOGNITION, "sar-rarp50", "action")
TOOLS = named(Task.TOOL_RECOGNITION, "cholec80", "tool")
TISSUES = named(Task.TISSUE_RECOGNITION, "endoscapes", "tissue")
TRIPLET = named(Task.TRIPLET_EXTRACTION, "cholect50", "triplet")
CVS = spec_for(Task.OVERALL_CVS_ASSESSMENT, ("achieved", "not achieved"))
GRID = spec_for(Task.GRID_POSITION_RECOGNITION, ("left-top", "right-top", "left-bottom", "right-bottom"))
YES, COUNT, BOX = (
    spec_for(t) for t in (Task.CVS_CRITERIA_ASSESSMENT, Task.TOOL_COUNTING, Task.TOOL_LOCALIZATION)
)
OPEN = spec_for(Task.SURGICAL_VQA)
ONE_LABEL = [PHASE, BYPASS, ACTION, CVS, GRID]
WORDED = [PHASE, BYPASS, STEP, ACTION, TOOLS, TISSUES, GRID]
SPECS = [*WORDED, LETTERS, TRIPLET, CVS, YES, COUNT, BOX, OPEN]

_PIECES = r"""
<think> </think> <answer> </answer> Level_1: Level_3: Answer: Final_answer: The_phase_is It_is not no yes or
and but is in B (B) option a the ; , . : | - ( ) [ ] { } ** ``` ```json " ' \boxed{ \frac grasper hook bipolar
scissors grasper_retract_gallbladder retracts dissect the_hook gallbladder cystic_duct liver none preparation
gallbladder_dissection clipping_and_cutting Calot's_triangle tying_a_knot anastomosis_test achieved other
left top-left upper_right 1 2 two 2.5 -1 (1,2) (1,2),(3,4) [1,2,3,4] 1e309 NaN {"answer": "phase": "bbox_2d":
sorry cannot_determine because Explanation: possibly before partially true false null 准备 İ ſ ＡＢ ‑
not_achieved null_verb
"""
_LIST = [*(p.replace("_", " ") for p in _PIECES.split()), "\n", "\n\n", "\u00a0"]
pieces = st.lists(st.sampled_from(_LIST), max_size=14)
texts = st.one_of(
    st.text(max_size=40),
    pieces.map(" ".join),
    pieces.map("".join),
    pieces.map(lambda p: f"<answer>{' '.join(p)}</answer>"),
    st.text(alphabet="()[]<>{}\"':,.;|-*`\\ \n0123456789eEabAB", max_size=60),
)


@cases(2000)
@given(
    texts,
    st.sampled_from(SPECS),
    st.sampled_from(["stop", "stop", "length", "blocked", "error"]),
    st.booleans(),
)
def test_any_text_of_any_task_has_an_outcome(text, spec, finish_reason, fuzzy) -> None:
    parsed = parse(text, finish_reason=finish_reason)
    found = extract(parsed, spec, fuzzy=fuzzy)
    answered = found.outcome in (Outcome.OK, Outcome.REPAIRED)
    assert (found.value is not None) == answered == bool(found.rung)
    assert found.rung in ("exact", "alias", "letter", "mention", "fuzzy", "")
    assert found.rung != "fuzzy" or fuzzy
    assert found.rung != "letter" or spec.letters
    if found.rung in ("mention", "fuzzy"):
        assert found.outcome is Outcome.REPAIRED
    if spec.kind == "box" and answered:
        assert len(parse_boxes(parsed.answer)) == 1
    parse_triplets(text)
    triplet_components(text)


@cases(1100)
@given(texts, st.sampled_from(SPECS), st.booleans())
def test_a_canonical_value_is_read_as_itself(text, spec, fuzzy) -> None:
    found = extract(text, spec, fuzzy=fuzzy)
    if found.value is not None:
        again = extract(f"<answer>{found.value}</answer>", spec)
        assert again == Extraction(found.value, Outcome.OK, "exact")


@cases(800)
@given(st.text(max_size=60))
def test_normalising_twice_is_normalising_once(text) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_every_label_of_every_card_is_exact() -> None:
    count = 0
    for card in all_cards():
        for label in card.labels if card.spec.kind in ("label", "labels", "triplets", "text") else ():
            assert extract(f"<answer>{label}</answer>", card.spec) == Extraction(label, Outcome.OK, "exact")
            count += 1
    assert count > 200
    for spec in WORDED:
        for label in spec.options:
            assert extract(f"<answer>{label}</answer>", spec) == Extraction(label, Outcome.OK, "exact")


@cases(1100)
@given(texts, st.sampled_from(WORDED), st.booleans())
def test_no_label_from_text_that_lacks_its_words(text, spec, fuzzy) -> None:
    """Without near spellings every word of a label, or of one alias of it, stands in the text."""
    found = extract(text, spec)
    if found.value in (None, "none"):
        return
    have = normalise(text).replace(" ", "")
    for label in found.value.split(", "):
        spellings = [label, *(a for a, n in spec.aliases.items() if n == label)]
        assert any(all(w in have for w in normalise(s).split()) for s in spellings)


@cases(900)
@given(st.data())
def test_the_truth_is_never_found_in_text_that_lacks_it(data) -> None:
    """Text made of everything but the true label (and its aliases) never gives the true label."""
    spec = data.draw(st.sampled_from(WORDED))
    truth = data.draw(st.sampled_from(spec.options))
    own = {
        w for s in (truth, *(a for a, n in spec.aliases.items() if n == truth)) for w in normalise(s).split()
    }
    others = [o for o in spec.options if not own & set(normalise(o).split())]
    filler = [
        "the image shows",
        "it is",
        "so",
        ",",
        ".",
        "or",
        "not",
        "because",
        "maybe",
        "and",
        "\n",
        "sorry",
    ]
    words = data.draw(st.lists(st.sampled_from([*others, *filler]), max_size=8))
    found = extract(" ".join(words), spec, fuzzy=True).value
    assert found is None or truth not in found.split(", ")


@cases(900)
@given(texts, st.sampled_from([PHASE, BYPASS, ACTION, TOOLS, TRIPLET, GRID, CVS]), st.integers(0, 2**32))
def test_the_order_of_options_and_aliases_does_not_matter(text, spec, seed) -> None:
    options, aliases = list(spec.options), list(spec.aliases.items())
    random.Random(seed).shuffle(options)
    random.Random(seed).shuffle(aliases)
    here = extract(text, spec, fuzzy=True)
    there = extract(text, replace(spec, options=tuple(options), aliases=dict(aliases)), fuzzy=True)
    assert (here.outcome, here.rung) == (there.outcome, there.rung)
    separator = "; " if spec.kind == "triplets" else ", "
    assert set((here.value or "").split(separator)) == set((there.value or "").split(separator))


@cases(1100)
@given(st.data())
def test_case_space_and_markdown_around_a_label_change_nothing(data) -> None:
    spec = data.draw(st.sampled_from([*WORDED, TRIPLET, CVS]))
    label = data.draw(st.sampled_from(spec.options))
    upper = data.draw(st.lists(st.booleans(), min_size=len(label), max_size=len(label)))
    written = "".join(c.upper() if up else c for c, up in zip(label, upper, strict=True))
    form = data.draw(
        st.sampled_from(
            [
                "{}",
                "**{}**",
                "*{}*",
                "`{}`",
                "_{}_",
                " {}\n",
                "\t{}",
                "{}.",
                '"{}"',
                "“{}”",
                "- {}",
                "# {}",
                "({})",
            ]
        )
    )
    separator = data.draw(st.sampled_from([" ", "_", "-", "  ", "\u00a0", "‑"]))
    text = form.format(written.replace(" ", separator))
    assert extract(f"<answer>{text}</answer>", spec) == Extraction(label, Outcome.OK, "exact")


@cases(900)
@given(st.data())
def test_two_labels_are_ambiguous_however_they_are_joined(data) -> None:
    spec = data.draw(st.sampled_from(ONE_LABEL))
    a, b = data.draw(st.permutations(spec.options))[:2]
    joint = data.draw(
        st.sampled_from([" ", ", ", " or ", " and ", "; ", "\n", ". ", " / ", " | ", " - ", ": ", "\n- "])
    )
    for text in (f"{a}{joint}{b}", f"<answer>{a}{joint}{b}</answer>"):
        assert extract(text, spec, fuzzy=True).outcome is Outcome.AMBIGUOUS


@cases(500)
@given(st.data())
def test_a_negated_label_never_counts(data) -> None:
    spec = data.draw(st.sampled_from([PHASE, BYPASS, ACTION, GRID]))
    label = data.draw(st.sampled_from(spec.options))
    form = data.draw(
        st.sampled_from(
            [
                "not {}",
                "It is not {}.",
                "this isn't {}",
                "definitely not the {}",
                "{} has not started",
                "never {}",
            ]
        )
    )
    assert extract(f"<answer>{form.format(label)}</answer>", spec, fuzzy=True).value is None


_TRIPLET_FORMS = [
    ("{0} {1} {2}", "; "),
    ("({0}, {1}, {2})", ", "),
    ("<{0}, {1}, {2}>", "; "),
    ("{0}-{1}-{2}", "\n"),
    ("{0} | {1} | {2}", "; "),
    ("- {0}, {1}, {2}", "\n"),
    ("{0} {1} {2}", " and "),
    ("{0},{1},{2}", ", "),
    ("Instrument: {0}, Verb: {1}, Target: {2}", "\n"),
    ('{{"instrument": "{0}", "verb": "{1}", "target": "{2}"}}', ","),
]


@cases(900)
@given(
    st.lists(st.sampled_from(TRIPLET.options), min_size=1, max_size=4),
    st.sampled_from(_TRIPLET_FORMS),
    st.booleans(),
)
def test_triplets_are_read_the_same_in_every_notation(names, form, underscores) -> None:
    """Against the vocabulary's own parts: values, triplets and components."""
    one, joint = form
    parts = [triplet_parts(n) for n in names]
    written = [tuple(p.replace(" ", "_") if underscores else p for p in t) for t in parts]
    text = joint.join(one.format(*t) for t in written)
    if one.startswith("{{"):
        text = f"[{text}]"
    found = extract(f"<answer>{text}</answer>", TRIPLET)
    assert found.value is not None and found.rung == "exact"
    assert set(found.value.split("; ")) == set(names)
    assert parse_triplets(text) == list(dict.fromkeys(parts))
    tools, verbs, targets = triplet_components(text)
    assert (tools, verbs, targets) == tuple(frozenset(t[k] for t in parts) for k in range(3))


def test_components_count_where_no_triplet_does() -> None:
    assert triplet_components("grasper, laser") == (frozenset({"grasper"}), frozenset(), frozenset())
    assert triplet_components("forceps retract gallbladder; hook") == (
        frozenset({"hook"}),
        frozenset({"retract"}),
        frozenset({"gallbladder"}),
    )
    assert triplet_components('[{"instrument": "grasper", "verb": "hold", "target": "liver"}]') == (
        frozenset({"grasper"}),
        frozenset(),
        frozenset({"liver"}),
    )
    assert triplet_components("The hook does not dissect the liver") == (frozenset(),) * 3
    assert triplet_components("none") == triplet_components("") == (frozenset(),) * 3


@pytest.mark.parametrize(
    ("unit", "specs"),
    [
        ("(1,1),(", [BOX, PHASE]),
        ("Level 1:", [PHASE]),
        ("<answer>", [PHASE]),
        ("</answer>", [TRIPLET]),
        ("<think></think><answer>x</answer>", [PHASE]),
        ("```", [PHASE]),
        ("\\boxed{", [COUNT]),
        ("grasper retract gallbladder ", [TRIPLET]),
        ("preparation ", [LETTERS]),
        ("no ", [YES]),
        ("{", [TRIPLET, BOX]),
        ("1,", [BOX, COUNT]),
        (" ", SPECS),
    ],
)
def test_long_answers_of_one_thing_end(unit, specs) -> None:
    """200 kB each. A quadratic step would take minutes here."""
    text = unit * (200_000 // len(unit))
    for spec in specs:
        extract(text, spec)
        extract(f"<answer>{text} </answer>", spec)
