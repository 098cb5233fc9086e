"""Reviewing traces: decisions on disk, agreement against sklearn and hand cases, marks on words, a server
that answers nobody else, and the page in a browser.
"""

import base64
import http.client
import json
import math
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chromium import Chromium
from surgr1.corpora.schema import LabelledBox, Labels, Sample
from surgr1.ontology.procedures import load_procedure
from surgr1.ontology.tasks import Task
from surgr1.reasoning.support import Seen
from surgr1.synthesis.conversations import Conversation, write_conversations
from surgr1.synthesis.review import (
    Queue,
    Review,
    ReviewError,
    agreement,
    cohen_kappa,
    fingerprint,
    groups_of,
    make_queue,
    read_reviews,
    refused,
    write_review,
)
from surgr1.synthesis.review_marks import mark_level
from surgr1.synthesis.review_server import ReviewServer

TRACE = fingerprint("the text")


def decision(sample: str, reviewer: str = "anna", verdict="accept", comment="", trace=TRACE) -> Review:
    return Review(
        sample_id=sample,
        reviewer=reviewer,
        verdict=verdict,
        comment=comment,
        at="2026-01-02T03:04:05+00:00",
        trace=trace,
    )


# --- Decisions on disk ------------------------------------------------------------------------------


def test_the_last_word_of_each_reviewer_counts(tmp_path) -> None:
    assert read_reviews(tmp_path / "reviews") == []
    said = [
        decision("s1", "anna", "reject", "wrong tool\n\u2028 \U0001fa7a <b>"),
        decision("s2", "anna"),
        decision("s1", "ben", "reject"),
        decision("s1", "anna", "accept", "seen again"),
    ]
    for d in said:
        write_review(tmp_path / "reviews", d)
    assert sorted(p.name for p in (tmp_path / "reviews").iterdir()) == ["anna.jsonl", "ben.jsonl"]
    assert len((tmp_path / "reviews" / "anna.jsonl").read_bytes().splitlines()) == 3
    found = {(d.reviewer, d.sample_id): d for d in read_reviews(tmp_path / "reviews")}
    assert found == {("anna", "s1"): said[3], ("anna", "s2"): said[1], ("ben", "s1"): said[2]}


def test_a_torn_last_line_is_left_out_and_cut_off_by_the_next_decision(tmp_path) -> None:
    write_review(tmp_path, decision("s1", comment="ü"))
    path = tmp_path / "anna.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])
        assert [d.sample_id for d in read_reviews(tmp_path)] == ["s1"]
    write_review(tmp_path, decision("s2"))
    assert [d.sample_id for d in read_reviews(tmp_path)] == ["s1", "s2"]
    assert path.read_bytes().startswith(whole) and path.read_bytes().count(b"\n") == 2


def test_a_last_line_without_its_end_is_kept(tmp_path) -> None:
    write_review(tmp_path, decision("s1"))
    path = tmp_path / "anna.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    write_review(tmp_path, decision("s2"))
    assert [d.sample_id for d in read_reviews(tmp_path)] == ["s1", "s2"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda line: b'{"sample_id": "s1"\n' + line, "anna.jsonl:1: not a decision"),
        (lambda line: line + line.replace(b'"accept"', b'"perhaps"') + line, "anna.jsonl:2: .*verdict"),
        (lambda line: line.replace(b'"anna"', b'"ben"'), "anna.jsonl:1: a decision of 'ben'"),
        (lambda line: line.replace(b'"anna"', b'"../anna"') + line, "anna.jsonl:1: not a decision"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, damage, said) -> None:
    write_review(tmp_path, decision("s1"))
    path = tmp_path / "anna.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ReviewError, match=said):
        read_reviews(tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "Anna", "x" * 41, ".hidden", "a b", "anna\n", "con."])
def test_a_reviewer_whose_name_could_not_name_a_file_everywhere_is_refused(tmp_path, name) -> None:
    with pytest.raises(ValueError, match="reviewer"):
        decision("s1", name)
    with pytest.raises(ReviewError, match="1 to 40 of a-z"):
        make_queue(tmp_path / "x.parquet", name)


def test_one_rejection_refuses_a_trace() -> None:
    said = [
        decision("s1", "anna", "reject", "no clip\n applier"),
        decision("s1", "ben", "accept", "fine"),
        decision("s2", "anna", "reject"),
        decision("s2", "ben", "reject", "phase"),
        decision("s3", "ben"),
    ]
    assert refused(said) == {
        ("s1", said[0].trace): "anna: no clip applier",
        ("s2", said[2].trace): "anna; ben: phase",
    }


# --- Agreement ----------------------------------------------------------------------------------------


def verdicts(both: int, neither: int, first: int, second: int) -> list[tuple[bool, bool]]:
    return (
        [(True, True)] * both
        + [(False, False)] * neither
        + [(True, False)] * first
        + [(False, True)] * second
    )


def test_kappa_of_a_hand_case() -> None:
    # Observed 35 / 50; by chance (25 * 30 + 25 * 20) / 50 ** 2 = 0.5; kappa = 0.2 / 0.5.
    found = cohen_kappa(verdicts(20, 15, 5, 10))
    assert (found.n, found.both_accept, found.both_reject) == (50, 20, 15)
    assert (found.first_only, found.second_only, found.note) == (5, 10, "")
    assert found.observed == pytest.approx(0.7) and found.kappa == pytest.approx(0.4)


def test_kappa_is_sklearns() -> None:
    from sklearn.metrics import cohen_kappa_score

    draw = random.Random(3)
    for n in (2, 7, 30, 200):
        for _ in range(6):
            pairs = [
                (a := draw.random() < 0.7, a if draw.random() < 0.6 else draw.random() < 0.4)
                for _ in range(n)
            ]
            first, second = zip(*pairs, strict=True)
            if len({*first, *second}) == 2:
                found = cohen_kappa(pairs)
                assert found.kappa == pytest.approx(cohen_kappa_score(first, second))
                assert found.low <= found.kappa <= found.high


def test_the_interval_is_the_asymptotic_one_where_traces_are_many() -> None:
    counts = (1200, 500, 180, 120)
    found = cohen_kappa(verdicts(*counts))
    # Fleiss, Cohen and Everitt, Psychological Bulletin 72 (1969) 323-327, equation 13.
    n = sum(counts)
    p = {(1, 1): counts[0] / n, (0, 0): counts[1] / n, (1, 0): counts[2] / n, (0, 1): counts[3] / n}
    row = {i: p[i, 0] + p[i, 1] for i in (0, 1)}
    column = {j: p[0, j] + p[1, j] for j in (0, 1)}
    po, pe = p[0, 0] + p[1, 1], row[0] * column[0] + row[1] * column[1]
    k = (po - pe) / (1 - pe)
    a = sum(p[i, i] * (1 - (row[i] + column[i]) * (1 - k)) ** 2 for i in (0, 1))
    b = (1 - k) ** 2 * sum(p[i, j] * (column[i] + row[j]) ** 2 for i in (0, 1) for j in (0, 1) if i != j)
    error = math.sqrt((a + b - (k - pe * (1 - k)) ** 2) / (n * (1 - pe) ** 2))
    assert found.low == pytest.approx(k - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(k + 1.96 * error, abs=0.006)


def test_where_kappa_is_undefined_or_empty_it_is_said() -> None:
    none = cohen_kappa([])
    assert (none.n, none.observed, none.kappa, none.low) == (0, None, None, None)
    assert "no trace" in none.note
    for pairs, word in ((verdicts(9, 0, 0, 0), "accepted"), (verdicts(0, 4, 0, 0), "rejected")):
        same = cohen_kappa(pairs)
        assert (same.observed, same.kappa, same.low, same.high) == (1.0, None, None, None)
        assert f"both {word} everything" in same.note
    constant = cohen_kappa(verdicts(6, 0, 3, 0))
    assert constant.kappa == 0 and "one verdict only" in constant.note
    perfect = cohen_kappa(verdicts(3, 2, 0, 0))
    assert perfect.kappa == 1 == perfect.high and perfect.low < 0.8, "five traces prove little"


def test_agreement_is_counted_on_what_two_reviewers_read_alike() -> None:
    said = [
        *(decision(f"s{k}", "anna", "reject" if k < 2 else "accept") for k in range(6)),
        *(decision(f"s{k}", "ben", "reject" if k < 3 else "accept") for k in range(5)),
        decision("s5", "ben", trace=fingerprint("another text")),
        decision("s0", "carl"),
    ]
    parts = {f"s{k}": (f"dataset: {'odd' if k % 2 else 'even'}",) for k in range(6)}
    found = agreement(said, parts)
    assert (found.samples, found.shared) == (6, 6)
    assert [p.reviewers for p in found.pairs] == [("anna", "ben"), ("anna", "carl"), ("ben", "carl")]
    pair = found.pairs[0]
    assert (pair.overall.n, pair.overall.both_accept, pair.overall.both_reject) == (5, 2, 2)
    assert (pair.overall.first_only, pair.overall.second_only) == (1, 0)
    assert {name: k.n for name, k in pair.groups.items()} == {"dataset: even": 3, "dataset: odd": 2}
    assert (found.pairs[1].overall.n, found.pairs[1].overall.kappa) == (1, 0.0)


# --- The queue ----------------------------------------------------------------------------------------


def conversation(k: int, **changes) -> Conversation:
    values = {
        "sample_id": f"{k:020x}",
        "dataset": ("sim-cholect50", "endoscapes")[k % 2],
        "video": "v1",
        "task": ("phase_recognition", "tool_recognition")[k // 2 % 2],
        "prompt": "Which tools?",
        "completion": "<think>Level 1: A hook.</think><answer>hook</answer>",
        "image": "none.png",
        "width": 112,
        "height": 84,
        "source": "offline",
        "answer": "hook",
        "policy": "local_only",
        "checks": {"format": True, "tools_supported": k % 3 > 0},
    }
    return Conversation(**values | changes)


@pytest.fixture
def many(tmp_path) -> Path:
    """100 conversations, one in ten of them of a third task."""
    path = tmp_path / "accepted.parquet"
    write_conversations(
        path, (conversation(k, **({"task": "rare"} if k % 10 == 0 else {})) for k in range(100))
    )
    return path


def test_the_shared_share_is_shown_to_everybody_and_the_rest_to_one(many) -> None:
    names = ["anna", "ben", "carl"]
    queues = {n: make_queue(many, n, reviewers=names, double=0.25) for n in names}
    shown = Counter(i for q in queues.values() for i in q.ids)
    assert len(shown) == 100 and Counter(shown.values()) == {3: 25, 1: 75}
    assert {q.shared for q in queues.values()} == {25}
    ids = [f"{k:020x}" for k in range(100)]
    for q in queues.values():
        assert [ids[row] for row in q.rows] == list(q.ids), "rows lead to the samples"
        half = q.ids[: len(q.ids) // 2]
        assert 9 <= sum(shown[i] == 3 for i in half) <= 16, "shared ones lie among the others"
    assert make_queue(many, "anna", reviewers=names[::-1], double=0.25) == queues["anna"]
    assert make_queue(many, "anna", reviewers=names, double=0.25, seed=1) != queues["anna"]


def test_a_limit_keeps_the_spread_and_one_reviewer_shares_with_nobody(many) -> None:
    queue = make_queue(many, "anna", limit=20)
    tasks = Counter(
        "rare" if int(i, 16) % 10 == 0 else (int(i, 16) % 2, int(i, 16) // 2 % 2) for i in queue.ids
    )
    assert len(queue.ids) == 20 and queue.shared == 0
    assert max(tasks.values()) - min(tasks.values()) <= 1 and len(tasks) == 5, "five strata alike"


def test_a_new_reviewer_takes_over_and_moves_nothing_else(many) -> None:
    before = {n: set(make_queue(many, n, reviewers=["anna", "ben"]).ids) for n in ("anna", "ben")}
    after = {
        n: set(make_queue(many, n, reviewers=["anna", "ben", "carl"]).ids) for n in ("anna", "ben", "carl")
    }
    assert after["anna"] < before["anna"] and after["ben"] < before["ben"]
    assert len(after["carl"]) > 20


def test_files_that_cannot_be_reviewed_are_named(tmp_path, many) -> None:
    twice = tmp_path / "twice.parquet"
    write_conversations(twice, [conversation(1), conversation(1)])
    empty = tmp_path / "empty.parquet"
    write_conversations(empty, [])
    (tmp_path / "text.parquet").write_text("no Parquet")
    for name, said in (
        ("twice", "stands in it twice"),
        ("empty", "nothing to review"),
        ("text", "not a file of conversations"),
        ("absent", "not a file of conversations"),
    ):
        with pytest.raises(ReviewError, match=rf"{name}\.parquet: .*{said}"):
            make_queue(tmp_path / f"{name}.parquet", "anna")
    for options, said in (({"double": 1.5}, "from 0 to 1"), ({"limit": 0}, "at least one")):
        with pytest.raises(ReviewError, match=said):
            make_queue(many, "anna", **options)


def test_the_parts_of_a_sample_are_read_from_the_file(many) -> None:
    found = groups_of(many, [f"{k:020x}" for k in (3, 4)])
    assert found == {
        f"{3:020x}": (
            "dataset: endoscapes",
            "task: tool_recognition",
            "check: format passed",
            "check: tools_supported failed",
        ),
        f"{4:020x}": (
            "dataset: sim-cholect50",
            "task: phase_recognition",
            "check: format passed",
            "check: tools_supported passed",
        ),
    }


# --- Marks on words -----------------------------------------------------------------------------------

LABELS = Labels(
    tools=("grasper", "hook"),
    triplets=(("grasper", "retract", "gallbladder"), ("hook", "dissect", "cystic duct")),
    phase="calot triangle dissection",
    boxes=(LabelledBox("hook", (60.0, 50.0, 100.0, 80.0)),),
)
SEEN = Seen(LABELS, "cholect50", load_procedure("laparoscopic cholecystectomy"), 112, 84)


def marks(text: str, seen: Seen = SEEN) -> list[tuple[str, str]]:
    pieces = mark_level(text, 1, seen).pieces
    assert "".join(p.text for p in pieces) == text
    return [(p.text, p.verdict) for p in pieces if p.verdict]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No clip applier is visible.", [("clip applier", "supported")]),
        (
            "<i>The L-hook</i> & two Graspers' jaws; SCISSORS & a pale omentum.",
            [
                ("hook", "supported"),
                ("two", "unlabelled"),
                ("Graspers", "supported"),
                ("SCISSORS", "refuted"),
                ("omentum", "unlabelled"),
            ],
        ),
        ("The hook isn't visible.", [("hook", "refuted")]),
        ("Neither clipper nor bipolar is seen.", [("clipper", "supported"), ("bipolar", "supported")]),
        ("Possibly a clipper.", []),
        ("A serene sentence about nothing.", []),
        # A wrong verb leaves the right tool and the right target right; a wrong target is wrong.
        (
            "The hook coagulates the cystic duct.",
            [("hook", "supported"), ("coagulates", "refuted"), ("cystic duct", "supported")],
        ),
        (
            "The hook dissects the liver.",
            [("hook", "supported"), ("dissects", "refuted"), ("liver", "refuted")],
        ),
        (
            "The hook dissects the duct.",
            [("hook", "supported"), ("dissects", "supported"), ("duct", "supported")],
        ),
        # A wrong place is marked itself.
        ("The hook is at the top left.", [("hook", "supported"), ("at the top left", "refuted")]),
        ("The hook is at the bottom right.", [("hook", "supported"), ("at the bottom right", "supported")]),
        ("The phase is Calot triangle dissection.", [("Calot triangle dissection", "supported")]),
        ("This fits clipping and cutting.", [("clipping and cutting", "refuted")]),
        ("", []),
    ],
)
def test_claims_are_marked_on_the_words_as_written(text, expected) -> None:
    assert marks(text) == expected


def test_criteria_are_marked_by_what_was_assessed() -> None:
    labels = Labels(cvs=(True, False, None))
    seen = Seen(labels, "endoscapes", load_procedure("laparoscopic cholecystectomy"), 112, 84)
    assert marks("C1 is met. C2 is met. The cystic plate criterion is not met.", seen)[:2] == [
        ("C1", "supported"),
        ("C2", "refuted"),
    ]


def test_a_mark_says_what_the_labels_hold() -> None:
    level = mark_level("Scissors are seen.", 2, SEEN)
    assert [p.reason for p in level.pieces if p.verdict] == ["tools labelled: grasper, hook"]
    assert [(j.statement.subject, j.verdict) for j in level.judged] == [("scissors", "refuted")]
    assert level.level == 2


WORDS = (
    *(
        "hook",
        "no",
        "Grasper's",
        "\ufb01ne",
        "\u00bd",
        "<b>",
        "&amp;",
        ".",
        ", ",
        "can't",
        "the",
        "is at the",
    ),
    *(
        "top left",
        "clips",
        "dissects",
        "liver",
        "\n",
        "C1",
        "met",
        "phase",
        "is",
        "\u0130",
        "\u0301",
        "\u2116",
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), st.text(max_size=40)))
def test_no_letter_of_any_text_is_lost_or_doubled(text) -> None:
    assert "".join(p.text for p in mark_level(text, 1, SEEN).pieces) == text


# --- The server ---------------------------------------------------------------------------------------

TEXT = (
    "<think>Level 1: The hook & <script>document.title = 'run'</script> scissors lie at the bottom right."
    " No clip applier is visible. The omentum is pale.</think><answer>hook</answer>"
)


def sample(k: int) -> Sample:
    return Sample(
        dataset=("sim-cholect50", "cholect50")[k % 2],
        centre="c",
        procedure="laparoscopic cholecystectomy",
        canonical_video="v1",
        video="v1",
        frame=k,
        seconds=float(k),
        image="x.png",
        width=224,
        height=168,
        task=Task.TOOL_RECOGNITION,
        question=f"Which <tools> are visible in frame {k}?",
        options=("hook", "grasper"),
        protocol="options",
        focus="",
        answer="hook",
        labels=Labels(tools=("hook",), boxes=(LabelledBox("hook", (112.0, 84.0, 200.0, 160.0)),)),
        split="train",
        role="train",
        policy="local_only",
        licence="x",
        sample_id=f"{k:020x}",
    )


class Client:
    """Requests as another program would send them."""

    def __init__(self, server: ReviewServer) -> None:
        self.host, rest = server.url.removeprefix("http://").split("/", 1)
        self.base = "/" + rest

    def ask(self, method: str, path: str, body: bytes | None = None, **headers) -> tuple[int, bytes, dict]:
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            sent = {k.replace("_", "-"): v for k, v in headers.items()}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.headers)
        finally:
            connection.close()

    def item(self, k: int) -> dict:
        status, body, _ = self.ask("GET", f"{self.base}item/{k}")
        assert status == 200, body
        return json.loads(body)

    def decide(self, item: dict, verdict: str, comment: str = "", **headers) -> tuple[int, bytes, dict]:
        value = {"sample_id": item["id"], "trace": item["trace"], "verdict": verdict, "comment": comment}
        own = {"Content_Type": "application/json", "Origin": f"http://{self.host}"} | headers
        return self.ask("POST", f"{self.base}decision", json.dumps(value).encode(), **own)


@pytest.fixture
def review(tmp_path):
    """Three items, two of simulated data; the third's picture is a text file."""
    Image.new("RGB", (112, 84), (120, 40, 40)).save(tmp_path / "frame.png")
    (tmp_path / "secret.png").write_text("no picture")
    path = tmp_path / "accepted.parquet"
    write_conversations(
        path,
        [
            conversation(
                k,
                dataset=sample(k).dataset,
                completion=TEXT,
                image=str(tmp_path / ("secret.png" if k == 2 else "frame.png")),
            )
            for k in range(3)
        ],
    )
    opened = []

    def start() -> ReviewServer:
        queue = Queue(path, "anna", tuple(f"{k:020x}" for k in range(3)), (0, 1, 2), 0)
        samples = {f"{k:020x}": sample(k) for k in range(3)}
        opened.append(ReviewServer(queue, samples, tmp_path / "reviews").start())
        return opened[-1]

    yield start
    for server in opened:
        server.close()


def test_an_item_holds_what_the_page_shows(review) -> None:
    item = Client(review()).item(0)
    assert (item["simulated"], item["local"], item["label"], item["answer"]) == (True, True, "hook", "hook")
    # Labels are in pixels of the stored picture, twice as large as the prepared one.
    assert item["boxes"] == [{"name": "hook", "kind": "label", "xywh": [56.0, 42.0, 44.0, 38.0]}]
    pieces = item["levels"][0]["pieces"]
    assert [(p["text"], p["verdict"]) for p in pieces if p["verdict"]] == [
        ("hook", "supported"),
        ("scissors", "refuted"),
        ("at the bottom right", "unlabelled"),
        ("clip applier", "supported"),
        ("omentum", "unlabelled"),
    ]
    assert item["raw"] == TEXT and item["trace"] == fingerprint(TEXT) and item["notices"] == []
    assert item["checks"] == [["format", True], ["tools_supported", False]]
    assert dict(item["labels"])["not labelled"] == "tissues, triplets, phase, criteria"
    assert item["decision"] is None and item["progress"] == {"decided": 0, "rejected": 0, "next": 0}


def test_a_decision_is_written_shown_changed_and_remembered(review, tmp_path) -> None:
    client = Client(review())
    item = client.item(0)
    status, body, _ = client.decide(item, "reject", "no <scissors>")
    assert status == 200 and json.loads(body)["progress"] == {"decided": 1, "rejected": 1, "next": 1}
    (kept,) = read_reviews(tmp_path / "reviews")
    assert (kept.sample_id, kept.reviewer, kept.verdict) == (item["id"], "anna", "reject")
    assert (kept.comment, kept.trace) == ("no <scissors>", fingerprint(TEXT))
    assert client.item(0)["decision"]["comment"] == "no <scissors>"
    assert client.decide(item, "accept")[0] == 200
    assert [d.verdict for d in read_reviews(tmp_path / "reviews")] == ["accept"]
    again = review()
    assert Client(again).item(0)["decision"]["verdict"] == "accept"
    assert b'"first": 1' in Client(again).ask("GET", Client(again).base)[1]


def test_a_text_that_changed_since_its_decision_is_to_be_decided_again(review, tmp_path) -> None:
    write_review(tmp_path / "reviews", decision(f"{0:020x}"))
    item = Client(review()).item(0)
    assert item["stale"] and "changed since you decided" in item["notices"][0]


def test_decisions_survive_a_killed_server(review, tmp_path) -> None:
    review()
    program = (
        "import sys; from pathlib import Path; from surgr1.synthesis.review import make_queue;"
        "from surgr1.synthesis.review_server import ReviewServer; root = Path(sys.argv[1]);"
        "server = ReviewServer(make_queue(root / 'accepted.parquet', 'ben'), {}, root / 'reviews');"
        "print(server.url, flush=True); server.serve_forever()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        address = process.stdout.readline().strip()

        class Address:
            url = address

        client = Client(Address)
        item = client.item(1)
        assert "labels of this sample were not found" in item["notices"][0]
        assert client.decide(item, "reject")[0] == 200
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert [(d.sample_id, d.verdict) for d in read_reviews(tmp_path / "reviews")] == [(item["id"], "reject")]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 404),
        ("/favicon.ico", {}, 404),
        ("/wrong-token/", {}, 404),
        ("/wrong-token/item/0", {}, 404),
        ("{base}item/3", {}, 404),
        ("{base}item/-1", {}, 404),
        ("{base}item/00", {}, 404),
        ("{base}item/0?x=1", {}, 404),
        ("{base}item/0/", {}, 404),
        ("{base}picture/../../secret.png", {}, 404),
        ("{base}picture/%2e%2e/secret.png", {}, 404),
        ("{base}../picture/0", {}, 404),
        ("{base}/etc/passwd", {}, 404),
        ("{base}decision", {}, 404),
        ("{base}item/0", {"Host": "evil.example"}, 403),
        ("{base}item/0", {"Host": "127.0.0.1"}, 403),
        ("{base}picture/0", {"Host": "evil.example:{port}"}, 403),
        ("{base}", {"Host": "127.0.0.1.evil.example:{port}"}, 403),
        ("{base}item/0", {"Origin": "http://evil.example"}, 403),
        ("{base}picture/0", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("{base}picture/0", {"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_nobody_else_reads(review, path, headers, status) -> None:
    client = Client(review())
    port = client.host.split(":")[1]
    sent = {k: v.format(port=port) for k, v in headers.items()}
    found, body, _ = client.ask("GET", path.format(base=client.base), **sent)
    assert found == status
    assert b"hook" not in body and client.base.encode() not in body and b"PNG" not in body


@pytest.mark.parametrize(
    ("headers", "change", "status"),
    [
        ({"Origin": "http://evil.example"}, {}, 403),
        ({"Origin": "null"}, {}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, {}, 403),
        ({"Host": "evil.example"}, {}, 403),
        ({"Content_Type": "text/plain"}, {}, 403),
        ({"Content_Type": "application/x-www-form-urlencoded"}, {}, 403),
        ({"Content_Length": "9999999"}, {}, 413),
        ({}, {"id": "another"}, 404),
        ({}, {"id": 7}, 400),
        ({}, {"trace": "../x"}, 400),
        ({}, {"comment": "x" * 4001}, 400),
        ({}, {"comment": "\ud800"}, 400),
        ({}, {"verdict": "perhaps"}, 400),
    ],
)
def test_nobody_else_writes_and_nothing_but_decisions(review, tmp_path, headers, change, status) -> None:
    client = Client(review())
    given = {"verdict": "reject", "comment": ""} | change
    item = client.item(0) | {k: v for k, v in change.items() if k in ("id", "trace")}
    found, _, _ = client.decide(item, given["verdict"], given["comment"], **headers)
    assert found == status
    assert read_reviews(tmp_path / "reviews") == []
    for path, own in (("decision", {}), ("item/0", {"Origin": f"http://{client.host}"})):
        assert client.ask("POST", client.base + path, b"{}", **own)[0] in (403, 404)


def test_a_reviewer_cannot_write_in_anothers_name(review, tmp_path) -> None:
    client = Client(review())
    item = client.item(0)
    value = {"sample_id": item["id"], "trace": item["trace"], "verdict": "accept", "comment": ""}
    body = json.dumps(value | {"reviewer": "ben", "at": "never"}).encode()
    headers = {"Content_Type": "application/json", "Origin": f"http://{client.host}"}
    assert client.ask("POST", client.base + "decision", body, **headers)[0] == 200
    assert [d.reviewer for d in read_reviews(tmp_path / "reviews")] == ["anna"]


def test_pictures_of_the_queue_are_served_and_nothing_that_is_no_picture(review, tmp_path) -> None:
    client = Client(review())
    status, body, headers = client.ask("GET", client.base + "picture/0")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert body == (tmp_path / "frame.png").read_bytes() and headers["Cache-Control"] == "no-store"
    status, body, _ = client.ask("GET", client.base + "picture/2")
    assert status == 404 and b"no PNG or JPEG" in body


def test_the_page_loads_nothing_from_outside_and_says_what_it_is(review) -> None:
    server = review()
    client = Client(server)
    assert client.host.startswith("127.0.0.1:")
    _, page, headers = client.ask("GET", client.base)
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    text = page.decode()
    assert "Research software, not for clinical use" in text and "SIMULATED DATA" in text
    assert "https://" not in text and text.replace("http://www.w3.org/2000/svg", "").count("http://") == 0
    assert client.ask("GET", client.base, Host=client.host.replace("127.0.0.1", "localhost"))[0] == 200
    assert review().url != server.url


def test_a_review_that_cannot_begin_says_why(review, tmp_path) -> None:
    port = int(Client(review()).host.split(":")[1])
    one = Queue(tmp_path / "accepted.parquet", "anna", (f"{0:020x}",), (0,), 0)
    with pytest.raises(ReviewError, match=f"127.0.0.1:{port} cannot be listened on"):
        ReviewServer(one, {}, tmp_path / "reviews", port=port)
    with pytest.raises(ReviewError, match="nothing in it falls to anna"):
        ReviewServer(Queue(one.path, "anna", (), (), 0), {}, tmp_path / "reviews")
    pq.write_table(pq.read_table(one.path).drop_columns(["completion"]), tmp_path / "less.parquet")
    with pytest.raises(ReviewError, match="has no column completion"):
        ReviewServer(Queue(tmp_path / "less.parquet", "anna", one.ids, one.rows, 0), {}, tmp_path / "reviews")
    moved = Queue(one.path, "anna", (f"{1:020x}",), (0,), 0)
    server = ReviewServer(moved, {}, tmp_path / "reviews").start()
    try:
        client = Client(server)
        status, body, _ = client.ask("GET", client.base + "item/0")
        assert status == 500 and b"written anew" in body
    finally:
        server.close()


# --- The page in a browser ----------------------------------------------------------------------------


class Browser(Chromium):
    """The review page."""

    def wait(self, condition: str) -> None:
        for _ in range(60):
            # A page that is just being left takes its promise along.
            found = self.call(
                "Runtime.evaluate",
                expression=f"new Promise(r => {{ let n = 0; const look = () => {{ if ({condition}) r(true);"
                " else if (++n > 20) r(false); else setTimeout(look, 25); }; look(); })",
                awaitPromise=True,
                returnByValue=True,
            )
            if found["result"].get("value") is True:
                return
        raise AssertionError(f"waited in vain for {condition}")

    def open(self, url: str, width: int, height: int) -> None:
        self.size(width, height)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait("document.documentElement.dataset.at !== undefined")

    def key(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def test_a_clinician_reviews_with_mouse_and_keys(browser, review, tmp_path) -> None:
    server = review()
    browser.open(server.url, 1366, 768)
    assert browser.run("document.title") == "Review of accepted.parquet", "markup of a trace is no markup"
    assert browser.run("document.querySelectorAll('#levels script').length") == 0
    assert "<script>" in browser.run("document.querySelector('#levels p').textContent")
    shown = browser.run(
        "[...document.querySelectorAll('#levels mark')]"
        ".map(m => [m.className, m.querySelector('.sign').textContent])"
    )
    signs = {"supported": "\u2713", "refuted": "\u2717", "unlabelled": "\u25cb"}
    assert [kind for kind, _ in shown] == ["supported", "refuted", "unlabelled", "supported", "unlabelled"]
    assert all(sign == signs[kind] for kind, sign in shown)
    assert not browser.run("document.getElementById('simulated').hidden")
    browser.wait("document.querySelector('.frame img').naturalWidth === 112")
    box = browser.run(
        "(() => { const i = document.querySelector('.frame img').getBoundingClientRect(),"
        " r = document.querySelector('.frame rect').getBoundingClientRect();"
        " return [(r.x - i.x) / i.width, (r.y - i.y) / i.height, r.width / i.width, r.height / i.height];"
        " })()"
    )
    assert box == pytest.approx([56 / 112, 42 / 84, 44 / 112, 38 / 84], abs=0.01)
    browser.key("b")
    assert browser.run("document.getElementById('boxes').hidden")

    browser.key("c")
    for letter in "rare":
        browser.key(letter)
    assert read_reviews(tmp_path / "reviews") == [], "letters of a comment decide nothing"
    browser.run("document.getElementById('reject').click()")
    browser.wait("document.documentElement.dataset.at === '1'")
    (kept,) = read_reviews(tmp_path / "reviews")
    assert (kept.sample_id, kept.verdict, kept.comment) == (f"{0:020x}", "reject", "rare")
    assert browser.run("document.getElementById('simulated').hidden")
    browser.key("a")
    browser.wait("document.documentElement.dataset.at === '2'")
    browser.wait("document.getElementById('frame').textContent.includes('no PNG or JPEG')")

    browser.key("ArrowLeft")
    browser.wait("document.documentElement.dataset.at === '1'")
    browser.key("ArrowLeft")
    browser.wait("document.documentElement.dataset.at === '0'")
    assert browser.run("document.getElementById('comment').value") == "rare"
    browser.key("a")
    browser.wait("document.documentElement.dataset.at === '1'")
    found = {d.sample_id: d.verdict for d in read_reviews(tmp_path / "reviews")}
    assert found == {f"{0:020x}": "accept", f"{1:020x}": "accept"}
    assert "2 of 3 decided, 0 rejected" in browser.run("document.getElementById('progress-text').textContent")

    server.close()
    browser.key("r")
    browser.wait("!document.getElementById('error').hidden")
    assert "NOT SAVED" in browser.run("document.getElementById('error').textContent")


@pytest.mark.parametrize("width", [1366, 390])
def test_the_page_fits_its_window(browser, review, width) -> None:
    browser.open(review().url, width, 800)
    browser.wait("document.querySelector('.frame img').complete")
    assert browser.run("document.documentElement.scrollWidth") <= width
    out = browser.run(
        "[...document.querySelectorAll('button, textarea')].filter(n => n.getBoundingClientRect().right >"
        " innerWidth || n.getBoundingClientRect().bottom > innerHeight).length"
    )
    assert out == 0, "what decides is in view"
    picture = browser.call("Page.captureScreenshot", format="png")["data"]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
