"""Task cards: what they fix is frozen, hospitals' data stays near, every frame list follows its rule."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from surgr1.bench import metrics
from surgr1.bench.cards import Card, all_cards, card_of
from surgr1.corpora.schema import Labels, Sample
from surgr1.corpora.sources import Source
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import HOSPITALS
from surgr1.reasoning.answers import extract
from surgr1.reasoning.trace import Outcome

FROZEN = json.loads(Path(__file__).with_name("card_hashes.json").read_text())


def sample(dataset, task, focus="", video="v1", frame=0, policy="public", options=()):
    return Sample(
        dataset=dataset,
        centre="c",
        procedure="laparoscopic cholecystectomy",
        canonical_video=video,
        video=video,
        frame=frame,
        seconds=0.0,
        image="i.png",
        width=100,
        height=100,
        task=task,
        question="a training wording",
        options=options,
        protocol="open",
        focus=focus,
        answer="a",
        labels=Labels(),
        split="test",
        role="test",
        policy=policy,
        licence="l",
    )


def test_vocabularies_aliases_and_wordings_are_frozen() -> None:
    """A changed hash makes old and new scores incomparable: change tests/bench/card_hashes.json knowingly."""
    assert {c.id: [c.vocabulary_hash, c.question_hash] for c in all_cards()} == FROZEN


def test_the_sets_of_the_paper_have_their_cards() -> None:
    groups = {g: {c.dataset for c in all_cards() if c.group == g} for g in ("public", "external", "extra")}
    assert groups["public"] == {"cholect50", "cholec80", "sar-rarp50", "multibypass140"}
    assert groups["external"] == set(HOSPITALS)
    assert sum(c.group == "external" for c in all_cards()) == 6
    assert {"endoscapes", "endovis17", "endovis18-vqa", "endovis18-vqla"} <= groups["extra"]
    # K of the macro metrics (evaluation.md B0, B2, B3).
    sizes = {c.id: len(c.labels) for c in all_cards() if c.kind == "label"}
    assert sizes["cholec80-phase"] == 7 and sizes["multibypass140-phase"] == 12
    assert sizes["sar-rarp50-action"] == 8 and sizes["renji-phase"] == 7 and sizes["strasbourg-phase"] == 7


def test_the_denominators_of_the_published_rows_are_the_cards_sizes() -> None:
    sizes = {c.id: c.frames.size for c in all_cards()}
    expected = {
        "cholect50-triplet": 1733,
        "cholec80-phase": 2000,
        "sar-rarp50-action": 1000,
        "multibypass140-phase": 881,
        "renji-phase": 940,
        "strasbourg-phase": 3000,
        "cuhk-action": 1060,
    }
    assert {k: sizes[k] for k in expected} == expected


def test_ids_are_unique_and_every_primary_metric_exists() -> None:
    cards = all_cards()
    assert len({c.id for c in cards}) == len(cards) == len({(c.dataset, c.task) for c in cards})
    for card in cards:
        assert card.primary in metrics.scheme_of(card.kind, card.labels).metrics, card.id


def test_hospital_data_is_local_only_whatever_a_recipe_says(tmp_path) -> None:
    for dataset in HOSPITALS:
        assert Source(dataset=dataset, root=tmp_path, policy="public").data_policy == "local_only"
        for card in all_cards():
            if card.dataset == dataset:
                assert card.policy == "local_only"
                assert card.asked(sample(dataset, card.task, policy="public")).policy == "local_only"
                assert card.asked(sample(f"sim-{dataset}", card.task)).policy == "public"


def test_a_card_can_only_make_a_policy_stricter() -> None:
    card = card_of("cholec80", "phase_recognition")
    assert card is not None and card.policy == "licence_restricted"
    strict = sample("cholec80", Task.PHASE_RECOGNITION, policy="local_only")
    assert card.asked(strict).policy == "local_only"


def test_questions_have_the_cards_one_wording() -> None:
    cvs = card_of("sim-endoscapes", "cvs_criteria_assessment")
    assert cvs is not None
    asked = cvs.asked(sample("sim-endoscapes", Task.CVS_CRITERIA_ASSESSMENT, "C2"))
    assert asked.question == "Is the hepatocystic triangle cleared for visibility?"
    box = card_of("cholect50", "tool_localization")
    assert box is not None
    before = sample("cholect50", Task.TOOL_LOCALIZATION, "hook")
    assert box.asked(before).question == "Where is the hook? Give its box."
    assert box.asked(before).sample_id == before.sample_id, "the wording does not make it another sample"
    vqa = card_of("endovis18-vqa", "surgical_vqa")
    assert (
        vqa is not None
        and vqa.asked(sample("endovis18-vqa", Task.SURGICAL_VQA)).question == "a training wording"
    )


def test_the_protocol_can_be_changed_for_a_run() -> None:
    card = card_of("cholec80", "phase_recognition")
    assert card is not None
    one = sample("cholec80", Task.PHASE_RECOGNITION)
    assert card.asked(one).protocol == "open" and card.asked(one, "options").protocol == "options"
    assert card.asked(one).options == card.labels


def test_every_label_of_a_card_is_its_own_answer() -> None:
    for card in (c for c in all_cards() if c.kind != "box"):
        for label in card.labels:
            found = extract(f"<answer>{label}</answer>", card.spec)
            assert (found.value, found.outcome) == (label, Outcome.OK), (card.id, label)
        for alias, label in card.aliases.items():
            if card.kind != "triplets":
                assert extract(f"<answer>{alias}</answer>", card.spec).value == label, (card.id, alias)


def test_frame_lists_take_every_video_and_no_more_than_the_size() -> None:
    card = next(c for c in all_cards() if c.id == "multibypass140-phase")
    pool = [
        sample("multibypass140", Task.PHASE_RECOGNITION, video=f"v{v}", frame=f)
        for v in range(10)
        for f in range(200)
    ]
    chosen = card.frame_list(pool, None, 0)
    per_video = {v: sum(s.video == f"v{v}" for s in chosen) for v in range(10)}
    assert len(chosen) == 881 and max(per_video.values()) - min(per_video.values()) <= 1
    assert len(card.frame_list(pool, 50, 0)) == 50
    assert card.frame_list(pool, None, 0) == card.frame_list(list(reversed(pool)), None, 0)


def test_seen_centres_are_named() -> None:
    assert {c.dataset for c in all_cards() if c.group == "external" and c.seen_centre} == {"strasbourg"}


def test_a_card_with_two_kinds_of_questions_or_stray_aliases_is_refused() -> None:
    raw = next(c for c in all_cards() if c.id == "cholec80-phase").model_dump()
    with pytest.raises(ValidationError, match="not both"):
        Card.model_validate(raw | {"questions": {"C1": "?"}})
    with pytest.raises(ValidationError, match="label list lacks"):
        Card.model_validate(raw | {"aliases": {"x": "y"}})


def test_yaml_files_and_cards_agree() -> None:
    folder = Path(__file__).parents[2] / "src/surgr1/bench/task_cards"
    ids = [t["id"] for p in folder.glob("*.yaml") for t in yaml.safe_load(p.read_text())["tasks"]]
    assert sorted(ids) == sorted(c.id for c in all_cards())
