"""What the teacher is told: golden prompts over a frozen little operation, and rules that hold for every
prompt over the real knowledge.

After a change of the templates that is meant, write the golden files again and read their diff:

    SURGR1_WRITE_GOLDEN=1 .venv/bin/pytest -n 0 tests/synthesis/test_prompts.py -k golden
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import jinja2
import pytest

from surgr1.corpora.cooccurrence import FrameLabels, count_labels
from surgr1.corpora.schema import Labels, Sample
from surgr1.ontology.procedures import Activity, Criterion, Entity, Procedure, Verb, load_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import has_vocabulary, vocabulary
from surgr1.synthesis import prompts
from surgr1.synthesis.prompts import knowledge_text, knowledge_version, prompt_version, teacher_prompt
from surgr1.synthesis.statistics import Provenance, Statistics

GOLDEN = Path(__file__).parent / "golden"
CHOLECYSTECTOMY = "laparoscopic cholecystectomy"
SLEEVE = "laparoscopic sleeve gastrectomy"
PROSTATECTOMY = "robot-assisted radical prostatectomy"
BYPASS = "laparoscopic roux-en-y gastric bypass"
NEPHRECTOMY = "robot-assisted nephrectomy"
PORCINE = "robotic porcine procedure"


def sample(
    dataset, procedure, task, answer, *, question="What is seen?", options=(), focus="", labels=None
) -> Sample:
    return Sample(
        dataset, "c", procedure, "v", "v", 1, 0.0, "x.png", 100, 100, task, question, options, "open", focus,
        answer, labels or Labels(), "train", "train", "public", "",
    )  # fmt: skip


def options(dataset, kind) -> tuple[str, ...]:
    return vocabulary(dataset, kind).names


COLD_START = {
    "cholec80-phase": sample(
        "cholec80", CHOLECYSTECTOMY, Task.PHASE_RECOGNITION, "calot triangle dissection",
        question="Which surgical phase is being performed?", options=options("cholec80", "phase"),
    ),
    "cholect50-triplet": sample(
        "cholect50", CHOLECYSTECTOMY, Task.TRIPLET_EXTRACTION, "grasper retract gallbladder",
        question="Describe the complete surgical action in terms of tool, action, and tissue.",
        options=options("cholect50", "triplet"),
    ),
    "endoscapes-cvs-criterion": sample(
        "endoscapes", CHOLECYSTECTOMY, Task.CVS_CRITERIA_ASSESSMENT, "no",
        question="Is the hepatocystic triangle cleared for visibility?", focus="C2",
    ),
    "rarp-action": sample(
        "sar-rarp50", PROSTATECTOMY, Task.ACTION_RECOGNITION, "pulling the needle out of the tissue",
        question="What action is being performed?", options=options("sar-rarp50", "action"),
    ),
    "multibypass140-phase": sample(
        "multibypass140", BYPASS, Task.PHASE_RECOGNITION, "gastric pouch creation",
        question="Name the surgical phase.", options=options("multibypass140", "phase"),
    ),
    "sleeve-triplet": sample(
        "hospital-sleeve", SLEEVE, Task.TRIPLET_EXTRACTION, "linear stapler staple stomach",
        question="Which tool does what to which tissue?",
    ),
    "endovis18-vqa": sample(
        "endovis18-vqa", NEPHRECTOMY, Task.SURGICAL_VQA, "tissue manipulation",
        question="What is the state of bipolar forceps?", options=options("endovis18-vqa", "answer"),
    ),
    "endovis17-tools": sample(
        "endovis17", PORCINE, Task.TOOL_RECOGNITION, "large needle driver, prograsp forceps",
        question="Which surgical tools are visible?", options=options("endovis17", "tool"),
    ),
}  # fmt: skip
OTHERS = {
    "step": sample("multibypass140", BYPASS, Task.STEP_RECOGNITION, "vertical stapling",
                   options=options("multibypass140", "step")),
    "cvs": sample("endoscapes", CHOLECYSTECTOMY, Task.OVERALL_CVS_ASSESSMENT, "not achieved",
                  options=("achieved", "not achieved")),
    "count": sample("endovis17", PORCINE, Task.TOOL_COUNTING, "3"),
    "tissues": sample("endoscapes", CHOLECYSTECTOMY, Task.TISSUE_RECOGNITION, "gallbladder, cystic duct",
                      options=options("endoscapes", "tissue")),
    "box": sample("endovis17", PORCINE, Task.TOOL_LOCALIZATION, "(12,40),(96,140)", focus="vessel sealer"),
    "tissue-box": sample("endoscapes", CHOLECYSTECTOMY, Task.TISSUE_LOCALIZATION, "(12,40),(96,140)",
                         focus="cystic duct"),
    "grid": sample("endovis17", PORCINE, Task.GRID_POSITION_RECOGNITION, "left-bottom", focus="vessel sealer",
                   options=("left-top", "right-top", "left-bottom", "right-bottom")),
    "motion": sample("autolaparo-motion", "laparoscopic hysterectomy", Task.MOTION_RECOGNITION, "up",
                     options=("up", "down")),
}  # fmt: skip
EVERY = COLD_START | OTHERS
TARGET, ANSWER_LINE = "Conclusion to be reached through your own observations: ", "<answer>"


def frozen(name: str) -> Procedure:
    """A little operation whose words only these tests change. Some fields are empty, as in files that are
    still being filled.
    """
    apart = {"grasp": "Held tissue lies slack.", "calot triangle dissection": "A verb has no phase."}
    return Procedure(
        name=name,
        sources=("A textbook.",),
        tools=(
            Entity(name="grasper", aliases=(), color="silver", shape="two long jaws", texture="serrated"),
            Entity(name="hook", aliases=(), color="white", shape="L-shaped tip", texture=""),
        ),
        tissues=(Entity(name="gallbladder", aliases=(), color="green", shape="pear", texture="shiny"),),
        verbs=(
            Verb(name="grasp"),
            Verb(name="retract", definition="Pulled aside under tension.", apart=apart),
            Verb(name="grasping", definition="The jaws hold something."),
            Verb(name="null verb", definition="Nothing is done."),
        ),
        phases=(
            Activity(
                name="preparation",
                definition="The field is exposed.",
                cues=("nothing is cut yet", "fat covers the neck"),
                next=("calot triangle dissection", "gastric pouch creation"),
                apart={
                    "calot triangle dissection": "The peritoneum is whole.",
                    "pulling the needle out of the tissue": "Of another question.",
                },
            ),
            Activity(
                name="calot triangle dissection", definition="", cues=("tissue is opened",), next=()
            ),
            Activity(name="gastric pouch creation", definition="A pouch.", cues=("staples",), next=()),
        ),
        steps=(Activity(name="vertical stapling", definition="Upwards.", cues=("a line",), next=()),),
        actions=(
            Activity(
                name="pushing the needle through the tissue",
                definition="The needle is driven in.",
                cues=("the tip is buried",),
                next=("pulling the needle out of the tissue",),
            ),
            Activity(
                name="pulling the needle out of the tissue",
                definition="The needle is drawn out.",
                cues=("the tip is out",),
                next=(),
                apart={"pushing the needle through the tissue": "The tip shows on the far side."},
            ),
        ),
        criteria=(
            Criterion(
                id="C1", name="two structures", definition="Two tubes.", questions=("?",), met=("two",),
                unmet=("one",),
            ),
            Criterion(
                id="C2", name="hepatocystic triangle", definition="The triangle is free.", questions=("?",),
                met=("a window",), unmet=("fat",), cleared=("Liver behind it.",), imitations=("Shadow.",),
            ),
        ),
    )  # fmt: skip


def statistics(procedure: str, simulated: bool = False) -> Statistics:
    """Of 400 frames: 300 preparation, 100 dissection; what is rare must not be told."""
    frames = [
        FrameLabels(
            "cholect50", procedure, f"cholec/{k // 100}", str(k // 100), k % 100,
            ("grasper", "hook") if k % 100 > 74 else ("grasper",),
            (("grasper", "retract", "gallbladder"), *([("hook", "dissect", "cystic duct")] if k < 2 else [])),
            "calot triangle dissection" if k % 100 > 74 else "preparation",
            None, None,
        )
        for k in range(400)
    ]  # fmt: skip
    return Statistics(
        procedure=procedure,
        simulated=simulated,
        version="0",
        provenance=(
            Provenance(dataset="cholect50", fingerprint="f" * 40, split="default", frames=400, videos=4),
        ),
        tables=count_labels(frames)[procedure],
    )


@pytest.mark.parametrize("name", sorted(COLD_START))
def test_golden_prompts_change_only_on_purpose(name, monkeypatch) -> None:
    monkeypatch.setattr(prompts, "load_procedure", frozen)
    s = COLD_START[name]
    text = teacher_prompt(s, s.answer, statistics=statistics(s.procedure))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("SURGR1_WRITE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_has_a_prompt() -> None:
    assert sorted(p.stem for p in GOLDEN.glob("*.txt")) == sorted(COLD_START)


def test_every_task_of_the_paper_has_a_prompt() -> None:
    assert {s.task for s in EVERY.values()} == set(Task)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_prompt_over_the_real_knowledge_has_every_section_and_stops_at_its_level(name) -> None:
    s = EVERY[name]
    text = teacher_prompt(s, s.answer)
    sections = ["REFERENCE", "HOW TO REASON", "WHAT EACH LEVEL HOLDS", "THIS PICTURE", "OUTPUT"]
    assert [line for line in text.splitlines() if line.isupper()] == sections
    assert s.question in text and s.procedure in text
    form, body = text.rpartition("with nothing before or after it:\n")[::2]
    levels = [f"Level {k}: ..." for k in range(1, s.level + 1)]
    assert body == f"<think>{chr(10).join(levels)}</think><answer>{s.answer}</answer>\n"
    told = [int(k) for k in re.findall(r"^Level (\d) \(", form, re.MULTILINE)]
    assert told == list(range(1, s.level + 1))
    assert f"Level {s.level + 1}" not in text
    # Nothing half rendered, no empty field that shows.
    assert not re.search(r"[{}]|: *\n\n|: $|None|, ,|\(\)|\bUndefined\b", form)
    assert "\n\n\n" not in text and not re.search(r"[ \t]+$", text, re.MULTILINE)
    procedure = load_procedure(s.procedure)
    for e in (*procedure.tools, *procedure.tissues):
        assert f"- {e.name}: {e.color}" in text


@pytest.mark.parametrize("name", sorted(EVERY))
def test_the_label_stands_in_the_target_and_the_answer_line_alone(name) -> None:
    """A label that is in no list: whatever shows it took it from the sample."""
    s, secret = EVERY[name], "xylophone quartet"
    labelled = Labels(tools=(secret,), tissues=(secret,), phase=secret, step=secret, action=secret)
    text = teacher_prompt(replace(s, answer=secret, labels=labelled), secret)
    lines = [line for line in text.splitlines() if secret in line]
    assert len(lines) == 2
    assert lines[0] == f"{TARGET}{secret}" and lines[1].endswith(f"<answer>{secret}</answer>")
    # What is told besides does not depend on the label, so it cannot betray it.
    other = teacher_prompt(s, "another")
    assert text.replace(secret, "another") == other


CONSTRAINTS = (
    "It is not a description of this picture.",
    "Where the picture looks different from the reference, trust the picture.",
    "Describe what is visible in this picture",
    "Never argue backwards from a conclusion",
    "never invent an observation",
    "never say or hint that an answer, label or annotation exists, was given or is known",
    "Begin Level 1 with something you see",
    "only those you see",
    "No measurements, percentages",
    "Plain English prose",
)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_prompt_holds_the_papers_constraints(name) -> None:
    text = teacher_prompt(EVERY[name], "x")
    assert [c for c in CONSTRAINTS if c not in text] == []


def activities(procedure: Procedure) -> set[str]:
    return {a.name for a in (*procedure.phases, *procedure.steps, *procedure.actions)}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_nothing_of_other_tasks_is_told(name) -> None:
    s = EVERY[name]
    text = teacher_prompt(s, "x")
    procedure = load_procedure(s.procedure)
    told = {line[2:].partition(":")[0] for line in text.splitlines() if line.startswith("- ")}
    entities = {e.name for e in (*procedure.tools, *procedure.tissues)}
    asked = {
        Task.PHASE_RECOGNITION: {a.name for a in procedure.phases},
        Task.STEP_RECOGNITION: {a.name for a in procedure.steps},
        Task.ACTION_RECOGNITION: {a.name for a in procedure.actions},
        Task.TRIPLET_EXTRACTION: {v.name for v in procedure.verbs},
        Task.SURGICAL_VQA: {v.name for v in procedure.verbs},
        Task.CVS_CRITERIA_ASSESSMENT: {c.name for c in procedure.criteria if c.id == s.focus},
        Task.OVERALL_CVS_ASSESSMENT: {c.name for c in procedure.criteria},
    }.get(s.task, set())
    closed = set(s.options) if s.task in (Task.PHASE_RECOGNITION, Task.STEP_RECOGNITION) else None
    if s.task is Task.ACTION_RECOGNITION:
        closed = set(s.options)
    assert told == entities | (asked if closed is None else asked & closed)


@pytest.mark.parametrize(
    ("dataset", "procedure", "kind", "task"),
    [
        ("cholec80", CHOLECYSTECTOMY, "phase", Task.PHASE_RECOGNITION),
        ("cholect50", CHOLECYSTECTOMY, "phase", Task.PHASE_RECOGNITION),
        ("multibypass140", BYPASS, "phase", Task.PHASE_RECOGNITION),
        ("sar-rarp50", PROSTATECTOMY, "action", Task.ACTION_RECOGNITION),
    ],
)
def test_every_possible_answer_of_a_cold_start_task_is_explained(dataset, procedure, kind, task) -> None:
    for choices in (options(dataset, kind), ()):
        text = teacher_prompt(sample(dataset, procedure, task, "x", options=choices), "x")
        assert [n for n in options(dataset, kind) if f"\n- {n}: " not in text] == []
    assert has_vocabulary(dataset, kind)


def test_triplets_are_told_by_their_verbs_and_targets() -> None:
    text = teacher_prompt(COLD_START["cholect50-triplet"], "x")
    assert f"Targets: {', '.join(options('cholect50', 'target'))}\n" in text
    assert all(f"\n- {v}" in text for v in options("cholect50", "verb"))
    assert "grasper dissect cystic plate" not in text


def test_verbs_that_a_dataset_has_and_the_knowledge_lacks_are_told_by_name(monkeypatch) -> None:
    monkeypatch.setattr(prompts, "load_procedure", frozen)
    text = teacher_prompt(COLD_START["cholect50-triplet"], "x")
    verbs = text.partition("\nVerbs:\n")[2].partition("\nTargets")[0]
    assert re.findall(r"^- ([a-z ]+)", verbs, re.MULTILINE) == list(options("cholect50", "verb"))


def test_what_tells_neighbours_apart_is_told_of_neighbours_in_the_question_alone(monkeypatch) -> None:
    monkeypatch.setattr(prompts, "load_procedure", frozen)
    phase = teacher_prompt(COLD_START["cholec80-phase"], "x")
    assert "  Not calot triangle dissection: The peritoneum is whole.\n" in phase
    assert "Of another question." not in phase
    # A successor that Cholec80 does not have is no successor there.
    assert "  May be followed by: calot triangle dissection\n" in phase and "gastric pouch" not in phase
    triplet = teacher_prompt(COLD_START["cholect50-triplet"], "x")
    assert "  Not grasp: Held tissue lies slack.\n" in triplet and "A verb has no phase." not in triplet


def test_an_empty_field_leaves_no_trace(monkeypatch) -> None:
    monkeypatch.setattr(prompts, "load_procedure", frozen)
    text = teacher_prompt(COLD_START["cholec80-phase"], "x")
    assert "- hook: white, L-shaped tip\n" in text
    assert "- calot triangle dissection\n  One frame of it may show: tissue is opened\n" in text
    assert "\n- grasp\n" in teacher_prompt(COLD_START["cholect50-triplet"], "x")
    first = teacher_prompt(replace(COLD_START["endoscapes-cvs-criterion"], focus="C1"), "x")
    assert "Has to be seen" not in first and "does not count" not in first and "Two tubes." in first


def test_statistics_are_told_with_their_numbers_and_without_what_is_rare() -> None:
    counted = statistics(CHOLECYSTECTOMY)
    phase = teacher_prompt(COLD_START["cholec80-phase"], "x", statistics=counted)
    assert "- preparation, in view (n = 300 frames): grasper 100%\n" in phase
    assert "- calot triangle dissection, in view (n = 100 frames): grasper 100%, hook 100%\n" in phase
    assert "- after preparation (n = 4 changes): calot triangle dissection 100%\n" in phase
    triplet = teacher_prompt(COLD_START["cholect50-triplet"], "x", statistics=counted)
    assert "- grasper (n = 400 deeds): retract gallbladder 100%\n" in triplet
    # Two deeds are no habit.
    assert "dissect cystic duct" not in triplet.partition("HOW TO REASON")[0].partition("How usual")[2]
    assert "in view (n" not in triplet and "deeds)" not in phase
    for name in ("endoscapes-cvs-criterion", "endovis17-tools"):
        assert "How usual" not in teacher_prompt(COLD_START[name], "x", statistics=counted)
    assert "How usual" not in teacher_prompt(COLD_START["cholec80-phase"], "x")
    assert "training labels of operations" in phase
    simulated = teacher_prompt(
        COLD_START["cholec80-phase"], "x", statistics=statistics(CHOLECYSTECTOMY, simulated=True)
    )
    assert "training labels of simulated operations" in simulated


def test_a_retry_says_in_plain_words_what_was_wrong() -> None:
    s = COLD_START["cholect50-triplet"]
    first = teacher_prompt(s, s.answer)
    assert "REJECTED" not in first
    again = teacher_prompt(
        s, s.answer, failed=["no_leak", "tools_supported: names hook", "no answer (empty)"]
    )
    assert "\n- It said or hinted that the answer was given or known.\n" in again
    assert "or denied one that is. (names hook)\n" in again and "\n- no answer (empty)\n" in again
    assert "tools_supported" not in again and "no_leak" not in again
    before, _, after = again.partition("YOUR LAST ATTEMPT WAS REJECTED")
    assert first.startswith(before) and first.endswith(
        after.partition("Do not mention the rejection.\n\n")[2]
    )


def test_every_check_has_plain_words() -> None:
    from surgr1.synthesis.validate import CHECKS

    s = COLD_START["cholec80-phase"]
    for check in CHECKS:
        text = teacher_prompt(s, s.answer, failed=[check])
        line = text.partition("WAS REJECTED\n- ")[2].partition("\n")[0]
        assert line != check and "_" not in line and line[0].isupper() and line.endswith(".")


def test_prompts_of_one_task_share_all_but_their_last_lines() -> None:
    """Endpoints charge a cached beginning at a fraction."""
    s = COLD_START["cholec80-phase"]
    one = teacher_prompt(s, s.answer)
    two = teacher_prompt(replace(s, question="Name the surgical phase."), "preparation")
    before, _, last = one.partition("THIS PICTURE")
    assert two.startswith(before) and len(last) < 0.05 * len(one)


def test_a_name_that_a_template_lacks_is_an_error_and_not_a_gap() -> None:
    with pytest.raises(jinja2.UndefinedError):
        prompts._render("workflow")


def test_versions_follow_the_words_and_the_counts(tmp_path, monkeypatch) -> None:
    assert re.fullmatch(r"2\+[0-9a-f]{8}", prompt_version()) and prompt_version() == prompt_version()
    plain = knowledge_version(CHOLECYSTECTOMY, None)
    counted = knowledge_version(CHOLECYSTECTOMY, statistics(CHOLECYSTECTOMY))
    invented = knowledge_version(CHOLECYSTECTOMY, statistics(CHOLECYSTECTOMY, simulated=True))
    assert len({plain, counted, invented, knowledge_version(SLEEVE, None)}) == 4
    monkeypatch.setattr(prompts, "load_procedure", frozen)
    frozen_version = knowledge_version("x", None)
    monkeypatch.setattr(prompts, "load_procedure", lambda name: frozen(name).model_copy(update={"steps": ()}))
    assert knowledge_version("x", None) != frozen_version


def test_other_templates_in_the_folder_do_not_change_the_version(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    monkeypatch.setattr(prompts, "files", lambda package: tmp_path)

    def version() -> str:
        prompts._templates_hash.cache_clear()
        return prompt_version()

    (folder / "base.txt.j2").write_text("a")
    before = version()
    (folder / "review.html.j2").write_text("a page")
    assert version() == before
    (folder / "base.txt.j2").write_text("b")
    assert version() != before
    prompts._templates_hash.cache_clear()


def test_the_knowledge_text_shows_all_of_it_with_sources_and_provenance() -> None:
    text = knowledge_text(CHOLECYSTECTOMY, statistics(CHOLECYSTECTOMY, simulated=True))
    procedure = load_procedure(CHOLECYSTECTOMY)
    for part in (*procedure.tools, *procedure.tissues, *procedure.verbs, *procedure.criteria):
        assert f"- {part.name}" in text
    for name in activities(procedure):
        assert f"- {name}" in text
    for source in procedure.sources:
        assert source in text
    assert (
        f"knowledge version {knowledge_version(CHOLECYSTECTOMY, statistics(CHOLECYSTECTOMY, True))}" in text
    )
    assert "SIMULATED operations (surgr1 0): 400 labelled training frames, 4 operations" in text
    assert "- cholect50, split default: 400 frames, 4 videos, fingerprint ffffffffffffffff\n" in text
    assert "How usual" not in knowledge_text(CHOLECYSTECTOMY)
