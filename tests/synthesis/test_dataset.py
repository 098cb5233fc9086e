"""Surg-R1-Data as files: rows counted as the paper's Table 3 counts them, shards, what is left out and the
card; and what `cot check` says of a file, against counts by hand.
"""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from surgr1.synthesis import dataset, quality
from surgr1.synthesis.conversations import (
    Conversation,
    ConversationError,
    read_conversations,
    write_conversations,
)
from surgr1.synthesis.dataset import (
    TABLE_3,
    DatasetError,
    build_dataset,
    composition,
    composition_table,
    pathway_of,
)
from surgr1.synthesis.quality import check_file, distinct
from surgr1.synthesis.review import fingerprint
from surgr1.synthesis.store import Decision, StoreError, TraceStore

PAPER = Path(__file__).resolve().parents[3] / "shared" / "reference" / "surg-r1-paper.md"


def trace(*levels: str) -> str:
    said = "\n".join(f"Level {k}: {text}" for k, text in enumerate(levels, start=1))
    return f"<think>{said}</think><answer>preparation</answer>"


def conversation(k, pathway="teacher", **other) -> Conversation:
    fields = {
        "sample_id": f"s{k}",
        "dataset": "sim-cholect50",
        "video": "VID01",
        "task": "phase_recognition",
        "prompt": "Which phase is this?",
        "completion": trace(f"Trace number {k} sees a grasper."),
        "image": f"/pictures/{k}.png",
        "width": 112,
        "height": 84,
        "source": "teacher-x",
        "answer": "preparation",
        "policy": "public",
        "options": ("preparation", "clipping and cutting"),
        "checks": {"format": True, "answer": True},
        "provenance": {"pathway": pathway, "prompt": "2+0a0a0a0a", "knowledge": "k1"},
    }
    return Conversation(**(fields | other))


# Table 3


def papers_table() -> dict[str, list[int]]:
    """Rows of Table 3 in the paper's text, without the marks of its references."""
    if not PAPER.is_file():
        pytest.skip(f"the paper's text is not at {PAPER}")
    lines = PAPER.read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("Table 3 Statistics"))
    rows = {}
    for line in lines[start + 3 :]:
        name, *numbers = line.split("\t")
        if not numbers:
            break
        rows[re.sub(" *[⁰¹²³⁴-⁹]+", "", name)] = [int(n.replace(",", "")) for n in numbers]
    return rows


def test_the_papers_numbers_are_those_of_its_table_3() -> None:
    """Our names are the data sets' own; the paper drops the last letter of Endoscapes."""
    paper = papers_table()
    paper["Endoscapes"] = paper.pop("Endoscape")
    total = paper.pop("Total")
    assert {name: [gpt, own, gpt + own] for name, (_, gpt, own) in TABLE_3.items()} == paper
    *rows, last = composition([])
    assert [last["paper"][k] for k in ("teacher", "self", "total")] == total
    assert {r["name"]: list(r["paper"].values()) for r in rows} == paper


def test_the_papers_totals_stand_beside_a_composition_of_nothing() -> None:
    *rows, total = composition([])
    assert total["paper"] == {"teacher": 40_875, "self": 279_602, "total": 320_477}
    assert (total["teacher"], total["self"], total["total"], total["simulated"]) == (0, 0, 0, False)
    assert len(rows) == 6 and all(r["total"] == 0 for r in rows)


def test_conversations_are_counted_in_the_papers_rows_by_layout_and_pathway() -> None:
    """Cholec80 and CholecT50 share a row, simulated twins stand in the row of their layout, other data sets
    in rows of their own; older files say the pathway by their source alone.
    """
    datasets = {
        "cholec80": 3,
        "sim-cholect50": 2,
        "endoscapes": 1,
        "multibypass140": 1,
        "endovis17": 1,
        "sim-dsad": 2,
        "heichole": 1,
    }
    made = [conversation(f"{d}{k}", dataset=d) for d, n in datasets.items() for k in range(n)]
    made += [conversation(k, "self", dataset=k) for k in ("sim-cholect50", "heichole")]
    old = conversation("z", dataset="sar-rarp50", source="model-x/iteration-2", provenance={})
    assert pathway_of(old) == "self" and pathway_of(conversation("z", provenance={})) == "teacher"
    *rows, total = composition([*made, old])
    assert {r["name"]: (r["teacher"], r["self"], r["total"], r["simulated"]) for r in rows} == {
        "Cholec80 + CholecT50": (5, 1, 6, True),
        "MultiBypass140": (1, 0, 1, False),
        "SAR-RARP50": (0, 1, 1, False),
        "Endoscapes": (1, 0, 1, False),
        "EndoVis18-VQA": (0, 0, 0, False),
        "EndoVis17": (1, 0, 1, False),
        "heichole": (1, 1, 2, False),
        "sim-dsad": (2, 0, 2, True),
    }
    assert [r["paper"] for r in rows if r["name"] in ("heichole", "sim-dsad")] == [None, None]
    assert (total["teacher"], total["self"], total["total"], total["simulated"]) == (11, 3, 14, True)
    table = composition_table([*rows, total]).splitlines()
    assert "| Cholec80 + CholecT50 (simulated) | 5 | 1 | 6 | 9,262 | 103,492 | 112,754 |" in table
    assert "| sim-dsad (simulated) | 2 | 0 | 2 |  |  |  |" in table
    assert table[-1] == "| Total (simulated) | 11 | 3 | 14 | 40,875 | 279,602 | 320,477 |"
    assert len({line.count("|") for line in table}) == 1


# The data set's folder


@pytest.fixture
def files(tmp_path, monkeypatch) -> list[Path]:
    """Nine traces by a teacher and four by the model itself (a twin and a retelling among them), in shards of
    four.
    """
    monkeypatch.setattr(dataset, "SHARD", 4)
    cold, refined = tmp_path / "cold.parquet", tmp_path / "refined.parquet"
    write_conversations(
        cold, [conversation(k, policy="licence_restricted" if k == 8 else "public") for k in range(9)]
    )
    write_conversations(
        refined,
        [
            conversation(20, "self", source="model-x/iteration-1"),
            # Word for word what the cold start has.
            conversation(3, "self", source="model-x/iteration-1"),
            # The same sample in other words, as both pathways may give it.
            conversation(4, "self", source="model-x/iteration-1", completion=trace("Told anew.")),
            conversation(21, "self", source="model-x/iteration-1"),
        ],
    )
    return [cold, refined]


REFUSED = {
    ("s1", fingerprint(trace("Trace number 1 sees a grasper."))): "anna: the tool is a hook",
    # Another trace of that sample was refused, not this one.
    ("s2", fingerprint(trace("Trace number 3 sees a grasper."))): "anna",
}


def shards(out: Path) -> dict[str, list[str]]:
    return {p.name: [c.sample_id for c in read_conversations(p)] for p in sorted(out.glob("*.parquet"))}


def test_a_data_set_has_shards_in_order_without_what_was_refused_or_stands_twice(files, tmp_path) -> None:
    out = tmp_path / "out"
    counts = build_dataset(files, out, title="demo", refused=REFUSED)
    assert shards(out) == {
        "train-00000-of-00003.parquet": ["s0", "s2", "s3", "s4"],
        "train-00001-of-00003.parquet": ["s5", "s6", "s7", "s8"],
        "train-00002-of-00003.parquet": ["s20", "s4", "s21"],
    }
    kept = [c for p in sorted(out.glob("*.parquet")) for c in read_conversations(p)]
    read = [c for p in files for c in read_conversations(p)]
    assert kept == [c for k, c in enumerate(read) if k not in (1, 10)], "unchanged"
    excluded = [json.loads(line) for line in (out / "excluded.jsonl").read_text("utf-8").splitlines()]
    assert excluded == [
        {
            "sample_id": "s1",
            "source": "teacher-x",
            "reason": "review: anna: the tool is a hook",
            "text": read[1].completion,
        },
        {
            "sample_id": "s3",
            "source": "model-x/iteration-1",
            "reason": "stands twice",
            "text": read[3].completion,
        },
    ]
    assert counts["conversations"] == 11 and counts["excluded"] == {"review": 1, "stands twice": 1}
    assert counts["checks"] == {"format": 11, "answer": 11}
    row = counts["composition"][0]
    assert (row["teacher"], row["self"], row["total"]) == (8, 3, 11)
    assert json.loads((out / "composition.json").read_text()) == counts
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*shards(out), "README.md", "composition.json", "excluded.jsonl"]
    )


def test_the_card_says_that_data_is_simulated_and_every_number_in_it_is_counted(files, tmp_path) -> None:
    out = tmp_path / "out"
    build_dataset(files, out, title="demo", refused=REFUSED)
    card = (out / "README.md").read_text("utf-8")
    _, head, body = card.split("---\n", 2)
    (config,) = yaml.safe_load(head)["configs"]
    assert len(list(out.glob(config["data_files"]))) == 3
    assert "# demo: three-level" in body and "Not for clinical use. **Simulated data.**" in body
    assert "\n11 conversations.\n" in body
    for line in (
        "| Cholec80 + CholecT50 (simulated) | 8 | 3 | 11 | 9,262 | 103,492 | 112,754 |",
        "| model-x/iteration-1 | 3 |",
        "| teacher-x | 8 |",
        "| prompt 2+0a0a0a0a, knowledge k1 | 11 |",
        "- review: 1",
        "- stands twice: 1",
        "| licence_restricted | 1 |",
        "| public | 10 |",
    ):
        assert f"\n{line}\n" in body, line
    assert re.search(r"\n- format \(11\): closed think tags", body)


def test_a_card_of_real_data_does_not_call_it_simulated(tmp_path) -> None:
    path = tmp_path / "c.parquet"
    write_conversations(path, [conversation(k, dataset="cholect50") for k in range(2)])
    build_dataset([path], tmp_path / "out", title="real", refused={})
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "simulated" not in card.lower() and "Nothing." in card.partition("## Left out")[2]


def test_a_data_set_built_twice_has_the_same_bytes(files, tmp_path) -> None:
    out, found = tmp_path / "out", []
    for _ in range(2):
        build_dataset(files, out, title="demo", refused=REFUSED)
        found.append({p.name: p.read_bytes() for p in out.iterdir()})
    build_dataset(files, tmp_path / "elsewhere", title="demo", refused=REFUSED)
    found.append({p.name: p.read_bytes() for p in (tmp_path / "elsewhere").iterdir()})
    assert found[0] == found[1] == found[2] and len(found[0]) == 6


def test_what_was_read_of_local_only_pictures_is_left_out_with_its_text(tmp_path) -> None:
    path = tmp_path / "in.parquet"
    write_conversations(path, [conversation(1), conversation(2, policy="local_only"), conversation(3)])
    counts = build_dataset([path], tmp_path / "out", title="t", refused={})
    assert (counts["conversations"], counts["excluded"]) == (2, {"local_only": 1})
    (row,) = [json.loads(x) for x in (tmp_path / "out" / "excluded.jsonl").read_text().splitlines()]
    assert (row["sample_id"], row["text"]) == (conversation(2).sample_id, "")


def test_shards_of_an_earlier_or_a_cut_off_build_are_removed(files, tmp_path) -> None:
    out = tmp_path / "out"
    build_dataset(files, out, title="demo", refused={})
    (out / "train-00007.parquet").write_bytes(b"cut off")
    short = tmp_path / "short.parquet"
    write_conversations(short, [conversation(99)])
    counts = build_dataset([short], out, title="demo", refused={})
    assert shards(out) == {"train-00000-of-00001.parquet": ["s99"]} and counts["conversations"] == 1
    assert (out / "excluded.jsonl").read_text() == "" and "\n1 conversations.\n" in (
        out / "README.md"
    ).read_text("utf-8")


def test_nothing_to_build_from_and_a_damaged_file_are_said(files, tmp_path) -> None:
    with pytest.raises(DatasetError, match="no conversations: run the cold start first"):
        build_dataset([], tmp_path / "out", title="demo", refused={})
    assert not (tmp_path / "out").exists()
    files[1].write_bytes(files[1].read_bytes()[:-50])
    with pytest.raises(ConversationError, match=r"refined\.parquet"):
        build_dataset(files, tmp_path / "out", title="demo", refused={})


# What a file holds (`cot check`)


def decision(k, attempt=0, *, text, checks, reasons=(), **other) -> Decision:
    fields = {"dataset": "sim-cholect50", "source": "teacher-x", "accepted": not reasons, "right": True}
    return Decision(
        sample_id=f"s{k}",
        task="phase_recognition",
        pathway="teacher",
        attempt=attempt,
        text=text,
        checks=checks,
        reasons=tuple(reasons),
        **(fields | other),
    )


@pytest.fixture
def store(tmp_path) -> Path:
    """Four accepted, five rejected for a leak (one of them for its form too), one that never came."""
    good = {"format": True, "answer": True, "no_leak": True}
    # 4, 6, 5 and 9 words.
    said = (
        ["I see one grasper."],
        ["A hook touches the liver today."],
        ["Two clips on it.", "Cut."],
        ["The gallbladder is pulled up.", "It is being freed."],
    )
    rows = [decision(k, text=trace(*levels), checks=good) for k, levels in enumerate(said)]
    rows[2] = decision(2, text=rows[2].text, checks=good, dataset="sim-dsad", source="teacher-y")
    rows += [
        decision(
            10 + k,
            text=trace(f"As given, the answer is {k}."),
            checks=good | {"no_leak": False},
            reasons=[f"no_leak: 'as given' ({k})"],
        )
        for k in range(4)
    ]
    rows.append(
        decision(
            14,
            text="As given",
            checks={"format": False, "no_leak": False},
            reasons=["format: no level: at all", "no_leak: 'as given' (4)"],
        )
    )
    rows.append(decision(15, text="", checks={}, reasons=["no trace: HTTP 500"], right=False))
    with TraceStore(tmp_path / "traces") as found:
        found.put(reversed(rows))
    return tmp_path / "traces"


def test_a_store_is_counted_with_its_rejected_traces(store) -> None:
    found = check_file(store)
    assert (found["traces"], found["accepted"], found["no_trace"]) == (10, 4, 1)
    assert {n: (c["passed"], c["failed"]) for n, c in found["checks"].items()} == {
        "format": (8, 1),
        "answer": (8, 0),
        "no_leak": (4, 5),
    }
    assert found["checks"]["no_leak"]["asks"] == "nothing says that the answer was given"
    # Three of five, the first by sample.
    assert [(e["sample_id"], e["found"]) for e in found["checks"]["no_leak"]["examples"]] == [
        (f"s1{k}", f"'as given' ({k})") for k in range(3)
    ]
    assert found["checks"]["format"]["examples"] == [
        {"sample_id": "s14", "found": "no level: at all", "text": "As given"}
    ]
    assert found["composition"] == {"sim-cholect50": {"teacher-x": 3}, "sim-dsad": {"teacher-y": 1}}
    # Of the accepted: 4, 5, 6 and 9 words.
    assert found["words"] == {"least": 4, "median": 5, "most": 9}
    assert found["diversity"]["traces"] == 4
    assert check_file(store / "traces.sqlite") == found


def test_conversations_are_counted_as_the_accepted_traces_of_the_store_are(store, tmp_path) -> None:
    with TraceStore(store) as traces:
        kept = [d for d in traces.every() if d.accepted]
    path = tmp_path / "accepted.parquet"
    write_conversations(
        path,
        [
            conversation(
                0,
                sample_id=d.sample_id,
                dataset=d.dataset,
                source=d.source,
                completion=d.text,
                checks=dict(d.checks),
            )
            for d in reversed(kept)
        ],
    )
    found, of_store = check_file(path), check_file(store)
    assert (found["traces"], found["accepted"], found["no_trace"]) == (4, 4, 0)
    assert {n: (c["passed"], c["failed"]) for n, c in found["checks"].items()} == dict.fromkeys(
        ("format", "answer", "no_leak"), (4, 0)
    )
    for part in ("composition", "words", "diversity"):
        assert found[part] == of_store[part], part


def test_what_is_no_file_of_traces_is_named_and_nothing_is_made(tmp_path) -> None:
    """A folder without a store gets none."""
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere" / "traces.sqlite", tmp_path / "ledger.sqlite"):
        with pytest.raises(StoreError, match=re.escape(str(path))):
            check_file(path)
    with pytest.raises(ConversationError, match=r"none\.parquet"):
        check_file(tmp_path / "none.parquet")
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]


def test_an_empty_file_has_no_words_and_no_diversity(tmp_path) -> None:
    path = tmp_path / "c.parquet"
    write_conversations(path, [])
    found = check_file(path)
    assert (found["traces"], found["checks"], found["words"]) == (0, {}, {})
    assert found["diversity"] == {
        "traces": 0,
        "distinct": {1: 0.0, 2: 0.0, 3: 0.0},
        "repeated": 0.0,
        "templates": 0,
        "common": 0.0,
    }


# Diversity


def test_distinct_by_hand() -> None:
    """ "a b a b": two of four words, "a b" and "b a" of three pairs, two different triples."""
    assert [distinct(["A b, a; B."], n) for n in (1, 2, 3, 4, 5)] == [2 / 4, 2 / 3, 1.0, 1.0, 0.0]
    # No n-gram goes from one text to the next.
    assert distinct(["a b", "b a"], 2) == 1.0 and distinct(["a b", "a b"], 2) == 0.5
    assert distinct([], 1) == distinct(["", "?"], 1) == 0.0


def test_distinct_agrees_with_a_slow_count() -> None:
    draw = hashlib.shake_256(b"texts").digest(900)
    texts = [" ".join("abcd"[b % 4] for b in draw[30 * k : 30 * k + 5 + k % 25]) for k in range(30)]
    for n in (1, 2, 3, 4):
        grams: list[str] = []
        for text in texts:
            words = text.split(" ")
            for k in range(len(words)):
                if k + n <= len(words):
                    grams.append("+".join(words[k : k + n]))
        different = sum(gram not in grams[:k] for k, gram in enumerate(grams))
        assert distinct(texts, n) == pytest.approx(different / len(grams))
        assert 0 < different < len(grams)


def diversity(tmp_path: Path, *said: str) -> dict[str, object]:
    path = tmp_path / "c.parquet"
    write_conversations(path, [conversation(k, completion=trace(t)) for k, t in enumerate(said)])
    return check_file(path)["diversity"]


def test_repeated_counts_traces_that_an_earlier_one_says_word_for_word(tmp_path) -> None:
    """Two of five: "a" comes three times; another case is another text."""
    a, b = "A grasper holds the liver.", "A grasper holds the Liver."
    assert diversity(tmp_path, a, b, a, "Nothing at all.", a)["repeated"] == 2 / 5


def test_templates_are_what_is_left_without_names_places_and_numbers(tmp_path) -> None:
    """Three templates; the mask takes whole words alone ("hooked" is no hook)."""
    found = diversity(
        tmp_path,
        "I see a grasper at the top left of the liver, 2 in all.",
        "I see a hook at the bottom right of the gallbladder, 31 in all.",
        "I see a clip applier at the upper left of the cystic duct, 4 in all.",
        "I see a hooked grasper at the top left of the liver, 2 in all.",
        "The phase is preparation.",
    )
    assert (found["templates"], found["common"], found["repeated"]) == (3, 1.0, 0.0)


def test_common_is_the_share_of_the_ten_most_frequent_templates(tmp_path) -> None:
    """Twelve templates: one three times, one twice, ten once each; the ten commonest hold 3 + 2 + 8 of 15."""
    words = [f"Wording {'x' * k} is used." for k in range(1, 13)]
    found = diversity(tmp_path, *words, words[0], words[0], words[1])
    assert (found["templates"], found["common"]) == (12, 13 / 15)


def test_the_counted_traces_are_drawn_by_their_ids_whatever_the_order(tmp_path, monkeypatch) -> None:
    """Of 30 the five with the smallest hashes; all 30 are looked through for repetitions."""
    monkeypatch.setattr(quality, "SAMPLED", 5)
    said = [f"Text {chr(97 + k % 26)} says {'so ' * (k // 26)}much." for k in range(28)]
    said += [said[0], said[1]]
    rows = [conversation(k, completion=trace(t)) for k, t in enumerate(said)]
    names = sorted(
        (hashlib.blake2b(c.sample_id.encode(), digest_size=8).hexdigest(), k) for k, c in enumerate(rows)
    )[:5]
    path, found = tmp_path / "c.parquet", []
    for order in (rows, rows[::-1], rows[15:] + rows[:15]):
        write_conversations(path, order)
        found.append(check_file(path)["diversity"])
    assert found[0] == found[1] == found[2]
    assert found[0]["traces"] == 5 and found[0]["repeated"] == 2 / 30
    assert found[0]["distinct"] == {n: distinct([said[k] for _, k in names], n) for n in (1, 2, 3)}
