"""Vocabularies against the documented native facts, procedures against each other and against broken
files.
"""

import pytest

from surgr1.ontology.procedures import ProcedureError, load_procedure, procedure_names, read_procedure
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import VocabularyError, layout_of, triplet_parts, vocabulary


def test_the_thirteen_tasks_have_the_papers_levels() -> None:
    levels = {level: {t.value for t in Task if t.level == level} for level in (1, 2, 3)}
    assert len(levels[1]) == 6
    assert levels[2] == {"action_recognition", "motion_recognition", "triplet_extraction"}
    assert levels[3] == {
        "tool_counting",
        "step_recognition",
        "phase_recognition",
        "overall_cvs_assessment",
        "surgical_vqa",
    }


def test_sizes_of_the_native_vocabularies() -> None:
    sizes = {
        (d, k): len(vocabulary(d, k).names)
        for d, k in [
            ("cholec80", "tool"),
            ("cholect50", "triplet"),
            ("multibypass140", "step"),
            ("sar-rarp50", "action"),
        ]
    }
    assert list(sizes.values()) == [7, 100, 46, 8]


def test_phases_four_and_six_swap_ids_between_loaders_but_not_names() -> None:
    """Cholec80's file order and TF-Cholec80 number packaging and retraction the other way round: names must
    decide.
    """
    words = vocabulary("cholec80", "phase")
    assert words.from_native("GallbladderRetraction") == "gallbladder retraction"
    assert vocabulary("cholect50", "phase").from_native("gallbladder-extraction") == "gallbladder retraction"
    assert (
        vocabulary("cholect50", "phase").from_native("carlot-triangle-dissection")
        == "calot triangle dissection"
    )


def test_triplets_against_the_published_map(real_samples) -> None:
    rows = [
        r.split(",")
        for r in (real_samples / "cholect50" / "ivtmetrics-maps.txt").read_text().splitlines()
        if r[:1].isdigit()
    ]
    assert len(rows) == 100
    tools, verbs, targets = (vocabulary("cholect50", k).names for k in ("tool", "verb", "target"))
    for number, i, v, t, *_ in rows:
        name = vocabulary("cholect50", "triplet").names[int(number)]
        assert triplet_parts(name) == (tools[int(i)], verbs[int(v)], targets[int(t)])


def test_unknown_names_say_what_exists() -> None:
    with pytest.raises(VocabularyError, match="Grasper"):
        vocabulary("cholec80", "tool").from_native("grasper ")
    with pytest.raises(VocabularyError, match="cholect50"):
        vocabulary("cholec99", "tool")
    with pytest.raises(ProcedureError, match="prostatectomy"):
        load_procedure("appendectomy")


def test_simulated_datasets_share_their_layouts_vocabulary() -> None:
    assert [
        layout_of(d) for d in ("sim-renji", "sim-strasbourg", "sim-cuhk", "sim-nanfang", "sim-cholec80")
    ] == [
        "cholect50",
        "cholec80",
        "sar-rarp50",
        "endoscapes",
        "cholec80",
    ]


def test_procedures_cover_the_label_vocabularies() -> None:
    pairs = [
        ("laparoscopic cholecystectomy", "cholec80", "phase", "phases"),
        ("laparoscopic roux-en-y gastric bypass", "multibypass140", "phase", "phases"),
        ("robot-assisted radical prostatectomy", "sar-rarp50", "action", "actions"),
        ("laparoscopic hysterectomy", "autolaparo", "phase", "phases"),
        ("endoscopic pituitary surgery", "pitvqa", "phase", "phases"),
        ("endoscopic submucosal dissection", "copesd", "action", "actions"),
    ]
    assert {p for p, *_ in pairs} <= set(procedure_names())
    for procedure, dataset, kind, field in pairs:
        assert {a.name for a in getattr(load_procedure(procedure), field)} == set(
            vocabulary(dataset, kind).names
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("next: [calot triangle dissection, gallbladder retraction]", "next: [lunch]"), "lunch"),
        (("name: hook,", "name: grasper,"), "more than once"),
        (("verbs:", "verps:"), "verps"),
        (("questions:", "query:"), "criteria"),
    ],
)
def test_a_broken_procedure_file_is_refused_with_its_place(tmp_path, change, message) -> None:
    import surgr1.ontology.procedures as module

    source = (
        module.Path(module.__file__).parent / "procedures" / "laparoscopic_cholecystectomy.yaml"
    ).read_text()
    broken = tmp_path / "broken.yaml"
    broken.write_text(source.replace(*change, 1))
    with pytest.raises(ProcedureError, match=message) as caught:
        read_procedure(broken)
    assert "broken.yaml" in str(caught.value)
