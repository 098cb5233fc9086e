"""The `surgr1 cot` commands as a person uses them, on one small simulated run without training; a stub on
this machine stands for the teachers that are models.
"""

import io
import json
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from rich.console import Console

from surgr1.cli.app import app, main
from surgr1.corpora.build import build, corpus_samples
from surgr1.engines.budget import most_usage
from surgr1.engines.ledger import Ledger
from surgr1.engines.prices import read_prices
from surgr1.pipeline.recipe import TeacherSpec, load_recipe
from surgr1.pipeline.run import _make_room
from surgr1.pipeline.stages import Run
from surgr1.simulator.world import simulate
from surgr1.synthesis.conversations import read_conversations
from surgr1.synthesis.prompts import teacher_prompt
from surgr1.synthesis.review import fingerprint
from surgr1.synthesis.teachers import teacher_requests, teacher_sampling

SYNTHESIS = Path(__file__).resolve().parents[1] / "synthesis"
REMOTE = "203.0.113.7"  # TEST-NET-3: nobody's.
STAGE = {"steps": 1, "batch_size": 1, "learning_rate": 0.001}
RECIPE = {
    "name": "small",
    "simulate": {
        "trees": [
            {"dataset": "sim-cholect50", "centre": "sim-strasbourg-public", "seconds": 14, "train": [1]},
            {"dataset": "sim-endoscapes", "centre": "sim-london-public", "seconds": 24, "train": [11]},
        ]
    },
    "sources": [
        {"dataset": "sim-cholect50", "policy": "public", "licence": "Apache-2.0"},
        {"dataset": "sim-endoscapes", "policy": "local_only", "licence": "Apache-2.0"},
    ],
    "images": {"min_tokens": 4, "max_tokens": 24},
    "model": {"nano": {"pretrain": STAGE}},
    "coldstart": {"select": {"limit": 30}, "stage": STAGE},
}
TOLD = "laparoscopic cholecystectomy"


class Done(NamedTuple):
    code: object
    out: str
    err: str


def cot(*arguments: object) -> Done:
    """`surgr1 cot …` in this process: exit status, what it printed, errors."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["surgr1", "cot", *map(str, arguments)]),
        # `main` adds the groups to the application.
        mock.patch.object(app, "registered_groups", list(app.registered_groups)),
        mock.patch.object(app, "registered_commands", list(app.registered_commands)),
        mock.patch.dict("os.environ", {"COLUMNS": "400"}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
    return Done(code, out.getvalue(), err.getvalue())


def said(*arguments: object) -> str:
    """What a command that succeeds prints."""
    done = cot(*arguments)
    assert done.code == 0 and not done.err, done
    return done.out


def refused(*arguments: object) -> str:
    """What a command that fails says: one error, no traceback, exit status 1."""
    done = cot(*arguments)
    assert done.code == 1 and done.err.startswith("error: ") and "Traceback" not in done.err, done
    return done.err


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="session")
def built(recipe, tmp_path_factory) -> Path:
    """A run folder with simulated operations and their samples, nothing else."""
    folder = tmp_path_factory.mktemp("runs") / "built"
    loaded = load_recipe(recipe, run_dir=folder)
    simulate(folder / "sim", loaded.sim_plan, workers=1)
    build(loaded.sources, folder / "data", isolation=loaded.isolation, workers=1)
    return folder


@pytest.fixture
def run(built, tmp_path) -> Path:
    """A copy of the built run to work in."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "sim").symlink_to(built / "sim")
    shutil.copytree(built / "data", folder / "data")
    return folder


@pytest.fixture(scope="session")
def finished(recipe, built, tmp_path_factory) -> Path:
    """A run with the offline teacher's traces. Only to be read."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    shutil.copytree(built, folder)
    found = json.loads(said("synthesize", recipe, "--out", folder, "--json"))
    assert found == {
        "accepted": 30,
        "rejected": 0,
        "reasons": {},
        "accepted_path": str(folder / "coldstart" / "traces" / "accepted.parquet"),
    }
    return folder


# synthesize


def test_synthesize_asks_the_offline_teacher_once(finished, recipe, run) -> None:
    kept = list(read_conversations(finished / "coldstart" / "traces" / "accepted.parquet"))
    assert len({c.sample_id for c in kept}) == 30
    assert {c.source for c in kept} == {"offline-labels-v2"}
    assert {c.dataset: c.policy for c in kept} == {"sim-cholect50": "public", "sim-endoscapes": "local_only"}
    out = said("synthesize", recipe, "--out", run)
    assert f"accepted 30, rejected 0: {run / 'coldstart' / 'traces' / 'accepted.parquet'}" in out
    with mock.patch("surgr1.synthesis.offline.OfflineTeacher.traces", side_effect=AssertionError):
        assert said("synthesize", recipe, "--out", run) == out


def test_a_dry_run_of_the_offline_teacher_costs_nothing_and_knows_what_is_decided(recipe, run) -> None:
    def dry() -> dict[str, object]:
        return json.loads(said("synthesize", recipe, "--out", run, "--dry-run", "--json"))

    expected = {"teacher": "offline", "samples": 30, "decided": 0, "calls": 0, "cost": 0.0}
    assert dry() == expected
    said("synthesize", recipe, "--out", run, "--set", "coldstart.select.limit=20")
    # Fewer are drawn balanced too: whatever those share with the thirty.
    done = dry()["decided"]
    assert isinstance(done, int) and 0 < done <= 20
    said("synthesize", recipe, "--out", run)
    assert dry() == expected | {"decided": 30}


def test_traces_outlive_another_training_and_end_with_another_teacher(recipe, run, priced) -> None:
    said("synthesize", recipe, "--out", run)
    (run / "coldstart" / "adapter").mkdir()
    _make_room(run / "coldstart", "trained otherwise")
    assert [p.name for p in sorted((run / "coldstart").iterdir())] == [".key", "traces"]
    place = opened(recipe, run)
    spec = place.recipe.coldstart.teacher
    assert place.holds_traces(spec.model_copy(update={"attempts": 5}))
    other = TeacherSpec(kind="api", base_url="http://127.0.0.1:9/v1", model="m")
    assert not place.holds_traces(other) and (run / "coldstart/traces/traces.sqlite").is_file()
    assert list(place.traces(other).iterdir()) == [run / "coldstart/traces/.key"]


# A model as teacher

PRICES = """
m:
  input: 2.00
  cached: 0.20
  output: 10.00
  batch: 0.5
  pictures: {kind: patches, side: 28, most: 1536, factor: 1.0}
  source: this test
  checked: 2026-01-01
"""


@pytest.fixture
def stub_of(monkeypatch):
    """A stub that knows the samples of a run's cold start."""
    monkeypatch.syspath_prepend(SYNTHESIS)
    from teacher_stub import Stub

    def make(run: Run, moods=None) -> Stub:
        samples = run.coldstart_samples()
        return Stub((samples, run.images(samples)), moods)

    return make


@pytest.fixture
def priced(tmp_path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return path


def teacher_at(url: str, prices: Path, **other: object) -> list[object]:
    """The options that make a model at `url` the teacher."""
    spec = {
        "kind": "api",
        "base_url": url,
        "model": "m",
        "prices": str(prices),
        "max_new_tokens": 200,
    } | other
    return ["--set", f"coldstart.teacher={json.dumps(spec)}"]


def opened(recipe: Path, folder: Path) -> Run:
    return Run(load_recipe(recipe, run_dir=folder), folder, Console(quiet=True))


def test_a_dry_run_counts_calls_tokens_cost_and_time_before_anything_is_sent(recipe, run, priced) -> None:
    """Against the tokens of each prompt and picture by the price's own rule, an answer of 60 to 200 tokens,
    four calls of three seconds at a time.
    """
    place = opened(recipe, run)
    samples = place.coldstart_samples()
    images = place.images(samples)
    patches = letters = 0
    for request in teacher_requests(samples, images, place.statistics, {}):
        with Image.open(request.images[0]) as picture:
            assert picture.width % 28 == picture.height % 28 == 0
            patches += picture.width * picture.height // 28**2
        letters += len(request.prompt)
    options = teacher_at("http://127.0.0.1:9/v1", priced, concurrency=4, money=1.5)
    asked = ["synthesize", recipe, "--out", run, *options, "--dry-run", "--latency", "3"]
    found = json.loads(said(*asked, "--json"))
    assert (found["teacher"], found["samples"], found["decided"], found["calls"]) == ("m", 30, 0, 30)
    # Some tokens frame each message, and each prompt is rounded up.
    assert 0 <= found["tokens_in"] - patches - letters / 4 <= 30 * 30
    assert (found["tokens_out_least"], found["tokens_out_most"]) == (30 * 60, 30 * 200)
    read = found["tokens_in"] * 2e-6
    assert found["cost_least"] == pytest.approx(read + 30 * 60 * 10e-6)
    assert found["cost_most"] == pytest.approx(read + 30 * 200 * 10e-6)
    assert found["seconds"] == 8 * 3 and found["answered_in_ledger"] == 0
    assert found["budget"] == {"money": 1.5, "tokens": None} and found["price"]["input"] == 2.0
    assert f"${found['cost_least']:,.2f} to ${found['cost_most']:,.2f}" in said(*asked)

    batch = teacher_at("http://127.0.0.1:9/v1", priced, kind="batch")
    halved = json.loads(said("synthesize", recipe, "--out", run, *batch, "--dry-run", "--json"))
    assert halved["cost_most"] == pytest.approx(found["cost_most"] / 2) and halved["seconds"] is None
    assert halved["calls"] == 30


def test_after_a_stop_a_dry_run_counts_only_what_the_ledger_lacks(recipe, run, priced, stub_of) -> None:
    """A budget of tokens that one call does not fit (each before it took 7); what is paid is not counted
    again, though not all of it is decided.
    """
    place = opened(recipe, run)
    samples = place.coldstart_samples()
    requests = teacher_requests(samples, place.images(samples), place.statistics, {})
    price = read_prices(priced)["m"]
    needs = [
        7 * k + sum(most_usage(r, teacher_sampling(200, 0.7, attempt=0), price)[:2])
        for k, r in enumerate(requests)
    ]
    stop = needs.index(max(needs))

    def dry(*options: object) -> dict[str, object]:
        return json.loads(said("synthesize", recipe, "--out", run, *options, "--dry-run", "--json"))

    with stub_of(place) as stub:
        free = teacher_at(stub.url, priced)
        tight = teacher_at(stub.url, priced, tokens=max(needs) - 1, concurrency=1)
        error = refused("synthesize", recipe, "--out", run, *tight)
        assert (
            f"of {max(needs) - 1:,} tokens are left" in error and "raise the budget and start again" in error
        )
        paid = len(stub.bills)
        assert 0 < paid == stop < 30
        found = dry(*free)
        assert found["answered_in_ledger"] + found["decided"] == paid and found["calls"] == 30 - paid
        report = json.loads(said("synthesize", recipe, "--out", run, *free, "--json"))
        assert (report["accepted"], report["rejected"]) == (30, 0)
        assert len(stub.bills) == stub.arrived == 30, "nothing is asked twice"
        found = dry(*free)
        assert (found["decided"], found["calls"], found["cost_most"]) == (30, 0, 0.0)
        # The traces are lost, their answers are not.
        shutil.rmtree(run / "coldstart")
        found = dry(*free)
        assert (found["decided"], found["answered_in_ledger"], found["calls"]) == (0, 30, 0)
        said("synthesize", recipe, "--out", run, *free)
        assert stub.arrived == 30


def test_a_dry_run_counts_the_second_call_of_what_was_rejected(recipe, run, priced, stub_of) -> None:
    place = opened(recipe, run)
    bad = [s.sample_id for s in place.coldstart_samples()[:4]]
    with stub_of(place, dict.fromkeys(bad, "mends")) as stub:
        once = teacher_at(stub.url, priced, attempts=1)
        twice = teacher_at(stub.url, priced, attempts=2)
        out = said("synthesize", recipe, "--out", run, *once)
        assert "accepted 26, rejected 4" in out and "no_leak: 4" in out
        found = json.loads(said("synthesize", recipe, "--out", run, *twice, "--dry-run", "--json"))
        assert (found["decided"], found["calls"], found["answered_in_ledger"]) == (26, 4, 0)
        assert "accepted 30, rejected 0" in said("synthesize", recipe, "--out", run, *twice)
        assert stub.arrived == 34
    checked = json.loads(said("check", run / "coldstart" / "traces", "--json"))
    assert (checked["traces"], checked["accepted"]) == (34, 30)
    assert checked["checks"]["no_leak"]["failed"] == 4
    assert {e["sample_id"] for e in checked["checks"]["no_leak"]["examples"]} <= set(bad)


@pytest.mark.parametrize("kind", ["api", "batch"])
def test_a_teacher_elsewhere_is_refused_while_any_sample_is_local_only(recipe, run, priced, kind) -> None:
    """Nothing is opened: no call in the ledger, no batch file, nothing decided."""
    far = teacher_at(f"https://{REMOTE}/v1", priced, kind=kind)
    error = refused("synthesize", recipe, "--out", run, *far)
    assert "local_only data" in error and REMOTE in error
    with closing(Ledger(run / "ledger.sqlite")) as ledger:
        assert ledger.spending().open_tokens == 0
        assert ledger._db.execute("SELECT COUNT(*) FROM calls").fetchone() == (0,)
    assert not list(run.glob("ledger.sqlite.batches/**/*.jsonl"))
    assert json.loads(said("check", run / "coldstart" / "traces", "--json"))["traces"] == 0


# check, composition, knowledge, statistics, plan


def test_check_says_which_checks_a_folder_or_a_file_passed(finished) -> None:
    traces = finished / "coldstart" / "traces"
    for path in (traces, traces / "accepted.parquet", traces / "traces.sqlite"):
        found = json.loads(said("check", path, "--json"))
        assert (found["traces"], found["accepted"], found["no_trace"]) == (30, 30, 0)
        assert {"format", "answer", "no_leak"} <= found["checks"].keys()
        assert {
            (c["passed"], c["failed"]) for n, c in found["checks"].items() if n in ("format", "answer")
        } == {(30, 0)}
        assert sum(sum(n.values()) for n in found["composition"].values()) == 30
        assert found["words"]["least"] >= 8 and set(found["diversity"]["distinct"]) == {"1", "2", "3"}
    out = said("check", traces)
    assert "30 traces, 30 accepted, 0 without a trace" in out
    assert re.search(r"answer +passed +30  failed +0  the answer equals the label", out)
    assert "distinct-1/2/3" in out


def test_composition_counts_runs_and_files_beside_the_paper(finished) -> None:
    path = finished / "coldstart" / "traces" / "accepted.parquet"
    found = {r["name"]: r for r in json.loads(said("composition", finished, "--json"))}
    cholec, endoscapes = (
        sum(c.dataset == f"sim-{n}" for c in read_conversations(path)) for n in ("cholect50", "endoscapes")
    )
    assert cholec and endoscapes and cholec + endoscapes == 30
    assert found["Cholec80 + CholecT50"]["teacher"] == cholec
    assert found["Endoscapes"]["teacher"] == endoscapes and found["Endoscapes"]["simulated"]
    assert found["Total"]["paper"]["total"] == 320_477
    assert "| Total (simulated) | 60 | 0 | 60 | 40,875 | 279,602 | 320,477 |" in said(
        "composition", finished, path
    )


def test_statistics_are_counted_from_the_training_frames_and_told_by_knowledge(recipe, run) -> None:
    samples = list(corpus_samples(run / "data", "sim-cholect50"))
    samples += corpus_samples(run / "data", "sim-endoscapes")
    frames = {(s.canonical_video, s.dataset, s.frame) for s in samples}
    found = json.loads(said("statistics", recipe, "--out", run, "--json"))
    assert list(found) == [TOLD] and found[TOLD]["simulated"]
    assert {p["dataset"]: p["frames"] for p in found[TOLD]["provenance"]} == {
        d: sum(f[1] == d for f in frames) for d in ("sim-cholect50", "sim-endoscapes")
    }
    out = said("statistics", recipe, "--out", run)
    # Endoscapes labels no triplet and no phase, so nothing that could go together.
    counted = sum(f[1] == "sim-cholect50" for f in frames)
    assert f"{TOLD} (simulated): {counted} frames of 1 operations" in out
    assert str(run / "knowledge.json") in out

    alone = said("knowledge", TOLD)
    told = said("knowledge", TOLD, "--statistics", run / "knowledge.json")
    assert "Strasberg" in alone and alone != told
    place = opened(recipe, run)
    sample = next(s for s in samples if s.task == "phase_recognition")
    usual = [
        line
        for line in teacher_prompt(sample, sample.answer, statistics=place.statistics[TOLD]).splitlines()
        if "simulated" in line.lower()
    ]
    assert usual and all(line in told and line not in alone for line in usual)


def test_plan_draws_by_quotas_and_synthesize_asks_for_what_was_drawn(recipe, run) -> None:
    quotas = [
        {"name": "phases", "datasets": ["cholect50"], "tasks": ["phase_recognition"], "limit": 5},
        {"name": "CVS", "datasets": ["endoscapes"], "tasks": ["overall_cvs_assessment"], "limit": 40},
    ]
    options = ["--set", "coldstart.select=null", "--set", f"coldstart.quotas={json.dumps(quotas)}"]
    options += ["--set", "coldstart.near_duplicates=false"]
    found = json.loads(said("plan", recipe, "--out", run, *options, "--json"))
    (phases, views), taken = found["quotas"], found["taken"]
    assert (phases["asked"], phases["taken"], phases["reason"]) == (5, 5, "")
    assert (
        views["taken"] == views["pool"] < 40 and views["shortfall"] == 40 - views["pool"] and views["reason"]
    )
    assert taken == 5 + views["pool"]
    out = said("plan", recipe, "--out", run, *options)
    assert f"phases: 5 of 5 asked ({phases['pool']} there are, 0 near-duplicates passed over)" in out
    assert f"{taken} samples: {run / 'plan' / 'plan.parquet'}" in out and "not checked: " in out
    said("synthesize", recipe, "--out", run, *options)
    traces = read_conversations(run / "coldstart" / "traces" / "accepted.parquet")
    drawn = pq.read_table(run / "plan" / "plan.parquet")["sample_id"].to_pylist()
    assert [c.sample_id for c in traces] == drawn and len(drawn) == taken
    # The paper's quotas, pictures compared.
    paper = ["--set", "coldstart.select=null", "--set", "coldstart.quotas=table-3"]
    found = json.loads(said("plan", recipe, "--out", run, *paper, "--json"))
    assert found["asked"] == 40_875 and 0 < found["taken"] < 200


# review, agreement, build


def posted(url: str, path: str, body: dict[str, str] | None = None) -> dict:
    """What the review page's own script would do."""
    origin = "/".join(url.split("/")[:3])
    headers = {"content-type": "application/json", "origin": origin}
    data = json.dumps(body).encode() if body else None
    with urlopen(Request(url + path, data=data, headers=headers if body else {}), timeout=30) as answer:
        return json.loads(answer.read())


def test_a_rejection_on_the_review_page_is_honoured_by_build_and_by_the_next_synthesize(
    finished, recipe, tmp_path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(finished, run)
    # A shell that starts the tests in the background makes SIGINT ignored in all their children.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from surgr1.cli.app import main; main()"
    )
    command = [sys.executable, "-c", code, "cot", "review", str(run), "--reviewer", "anna", "--limit", "6"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/[\w-]+/", line)
        assert url, line
        items = [posted(url[0], f"item/{k}") for k in range(6)]
        assert all(item["labels"] for item in items), "the samples with their labels were found"
        for item, verdict in zip(items[:2], ("reject", "accept"), strict=True):
            body = {"sample_id": item["id"], "verdict": verdict, "comment": "no such tool"}
            kept = posted(url[0], "decision", body | {"trace": item["trace"]})
            assert kept["decision"]["verdict"] == verdict
    finally:
        server.send_signal(signal.SIGINT)
        rest, errors = server.communicate(timeout=60)
    assert (server.returncode, errors) == (0, "") and "anna.jsonl" in rest.replace("\n", "")
    bad = items[0]["id"]

    assert "left out (review): 1" in said("build", run, "--out", out)
    rows = [json.loads(x) for x in (out / "excluded.jsonl").read_text("utf-8").splitlines()]
    (row,) = [r for r in rows if r["reason"].startswith("review")]
    assert (row["sample_id"], row["reason"]) == (bad, "review: anna: no such tool")
    again = json.loads(said("synthesize", recipe, "--out", run, "--json"))
    assert (again["accepted"], again["rejected"], again["reasons"]) == (29, 1, {"review": 1})
    (line,) = (run / "coldstart" / "traces" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["sample_id"] == bad
    assert json.loads(line)["reasons"] == ["review: anna: no such tool"]
    kept = read_conversations(run / "coldstart" / "traces" / "accepted.parquet")
    assert bad not in {c.sample_id for c in kept}
    assert "no two reviewers have judged the same trace" in said("agreement", run)


def test_agreement_is_that_of_the_reviewers_files(finished, tmp_path) -> None:
    """Both of ten: 4 accepted by both, 3 rejected by both, 1 and 2 split. Observed 0.7, by chance
    0.5 * 0.4 + 0.5 * 0.6 = 0.5 (anna accepts 5, ben 6 of ten: 0.3 + 0.2), so kappa is 0.4.
    """
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    traces = list(read_conversations(run / "coldstart" / "traces" / "accepted.parquet"))[:10]
    (run / "reviews").mkdir()
    for name, verdicts in (("anna", "aaaarrrarr"), ("ben", "aaaarrrraa")):
        (run / "reviews" / f"{name}.jsonl").write_text(
            "".join(
                json.dumps(
                    {
                        "sample_id": c.sample_id,
                        "reviewer": name,
                        "verdict": "accept" if v == "a" else "reject",
                        "comment": "",
                        "at": "2026-01-01T00:00:00+00:00",
                        "trace": fingerprint(c.completion),
                    }
                )
                + "\n"
                for c, v in zip(traces, verdicts, strict=True)
            )
        )
    found = json.loads(said("agreement", run, "--json"))
    assert (found["samples"], found["shared"]) == (10, 10)
    (pair,) = found["pairs"]
    overall = pair["overall"]
    assert pair["reviewers"] == ["anna", "ben"]
    assert [overall[k] for k in ("n", "both_accept", "both_reject", "first_only", "second_only")] == [
        *(10, 4, 3, 1, 2)
    ]
    assert overall["observed"] == pytest.approx(0.7) and overall["kappa"] == pytest.approx(0.4)
    assert {g for g in pair["groups"] if g.startswith("dataset")} == {f"dataset: {c.dataset}" for c in traces}
    assert re.search(r"anna and ben, all: kappa 0\.40 \[-?\d\.\d\d, \d\.\d\d\], n 10", said("agreement", run))


def test_build_writes_the_data_set_and_other_trainers_files(finished, tmp_path) -> None:
    out = tmp_path / "out"
    names = ("llama-factory", "ms-swift", "verl")
    done = said("build", finished, "--out", out, *(o for n in names for o in ("--export", n)))
    assert f"14 conversations: {out}" in done and "left out (local_only): 16" in done
    kept = list(read_conversations(out / "train-00000-of-00001.parquet"))
    traces = list(read_conversations(finished / "coldstart" / "traces" / "accepted.parquet"))
    assert len(traces) == 30 and kept == [c for c in traces if c.policy == "public"]
    for name in names[:2]:
        rows = [json.loads(x) for x in (out / name / "train.jsonl").read_text("utf-8").splitlines()]
        assert [r["messages"][1]["content"] for r in rows] == [c.completion for c in kept]
        assert all(Path(r["images"][0]).is_file() for r in rows)
    assert list(json.loads((out / names[0] / "dataset_info.json").read_text())) == ["train"]
    table = pq.read_table(out / "verl" / "train.parquet").to_pylist()
    assert [r["reward_model"]["ground_truth"] for r in table] == [c.answer for c in kept]
    assert "**Simulated data.**" in (out / "README.md").read_text("utf-8")
    assert json.loads(said("composition", out, "--json"))[-1]["total"] == 14


# checks

LABELLED = """
- &good
  id: good
  dataset: cholect50
  procedure: laparoscopic cholecystectomy
  task: phase_recognition
  question: Which phase of the operation is shown?
  size: [448, 252]
  answer: clipping and cutting
  labels: {tools: [clipper], phase: clipping and cutting}
  text: |-
    <think>Level 1: A clipper with bulky angled jaws is in view.
    Level 2: The clipper closes its jaws around a thin tube.
    Level 3: This is clipping and cutting.</think><answer>clipping and cutting</answer>
  violates: []
- <<: *good
  id: leak
  text: |-
    <think>Level 1: The ground truth is known. A clipper with bulky angled jaws is in view.
    Level 2: The clipper closes its jaws around a thin tube.
    Level 3: This is clipping and cutting.</think><answer>clipping and cutting</answer>
  violates: [no_leak]
- <<: *good
  id: wrong
  text: |-
    <think>Level 1: A clipper with bulky angled jaws is in view.
    Level 2: The clipper closes its jaws around a thin tube.
    Level 3: This is preparation.</think><answer>preparation</answer>
  violates: [answer, activity_supported, language]
"""


def test_checks_are_scored_on_traces_labelled_by_hand(tmp_path) -> None:
    """One label says, wrongly, that the language is bad: the check misses it."""
    path = tmp_path / "labelled.yaml"
    path.write_text(LABELLED)
    found = json.loads(said("checks", path, "--json"))
    assert (found["traces"], found["good"]) == (3, 1)
    scores = {s["check"]: (s["violated"], s["found"], s["true"]) for s in found["checks"]}
    assert scores["no_leak"] == scores["answer"] == scores["activity_supported"] == (1, 1, 1)
    assert scores["language"] == (1, 0, 0) and scores["any"] == (2, 2, 2)
    assert next(s for s in found["checks"] if s["check"] == "language")["missed"] == ["wrong"]
    # Wilson's interval of one in one.
    assert "| no_leak | 1 | 1 | 100 [21, 100] | 100 [21, 100] |" in said("checks", path)


# What is wrong is said


@pytest.mark.parametrize("command", ["synthesize", "plan", "statistics"])
def test_commands_on_a_recipe_say_what_is_wrong_with_it(recipe, tmp_path, command) -> None:
    quotas = '[{"name": "p", "datasets": ["cholect50"], "tasks": ["phase_recognition"], "limit": 5}]'
    by_quota = ["--set", "coldstart.select=null", "--set", f"coldstart.quotas={quotas}"]
    missing = refused(command, tmp_path / "none.yaml", "--out", tmp_path / "run")
    assert "none.yaml: No such file" in missing
    strange = refused(command, recipe, "--out", tmp_path / "run", "--set", "coldstart.teachr.kind=offline")
    assert "coldstart.teachr" in strange and "small.yaml" in strange
    both = refused(command, recipe, "--out", tmp_path / "run", *by_quota[2:])
    assert "give exactly one of coldstart.select and coldstart.quotas" in both
    folder = tmp_path / "run" / "data" / "sim-cholect50"
    by_quota += ["--set", "coldstart.near_duplicates=false"]
    unbuilt = refused(command, recipe, "--out", tmp_path / "run", *by_quota)
    assert str(folder) in unbuilt and "`surgr1 data build`" in unbuilt
    assert not folder.exists()
    elsewhere = refused(command, recipe, "--out", tmp_path / "run", "--data", "cholect45=/nowhere")
    assert "cholect45" in elsewhere and "sim-cholect50" in elsewhere


def test_a_recipe_without_a_teacher_or_quotas_is_said(recipe, run) -> None:
    none = ["--set", "coldstart=null"]
    for dry in ([], ["--dry-run"]):
        error = refused("synthesize", recipe, "--out", run, *none, *dry)
        assert "recipe small has no coldstart section, so no teacher" in error
    assert "no coldstart section: nothing to plan" in refused("plan", recipe, "--out", run, *none)
    error = refused("plan", recipe, "--out", run)
    assert "coldstart.select in place of quotas" in error and "table-3" in error
    for spec, why in (
        ("{kind: api}", "a teacher of kind api needs base_url and model"),
        ("{kind: offline, model: m}", "takes no base_url or model"),
        ("{kind: local}", "a local teacher, and no other, needs path"),
        ("{kind: api, base_url: 'http://127.0.0.1:9/v1', model: unheard-of, money: 5}", "price"),
    ):
        assert why in refused("synthesize", recipe, "--out", run, "--set", f"coldstart.teacher={spec}")
    quotas = "[{name: p, datasets: [sim-cholect50], tasks: [phase_recognition], limit: 5}]"
    error = refused("plan", recipe, "--set", "coldstart.select=null", "--set", f"coldstart.quotas={quotas}")
    assert "expected the layout, cholect50" in error
    lost = run / "quotas.yaml"
    options = ["--set", "coldstart.select=null", "--set", f"coldstart.quotas={lost}"]
    assert f"{lost}: not a file of quotas" in refused("plan", recipe, "--out", run, *options)


def test_files_and_folders_that_are_not_there_are_named(finished, tmp_path) -> None:
    lost, empty = tmp_path / "lost", tmp_path / "empty"
    empty.mkdir()
    for path in (lost, lost / "traces.sqlite", empty, tmp_path / "c.parquet"):
        assert str(path) in refused("check", path)
        assert str(path) in refused("composition", path)
    assert "neither a run with reasoning conversations nor a data set" in refused("composition", empty)
    for path in (lost, empty):
        error = refused("build", path, "--out", tmp_path / "out")
        assert str(path) in error and "surgr1 cot synthesize" in error
        error = refused("review", path, "--reviewer", "anna")
        assert f"{path / 'coldstart' / 'traces' / 'accepted.parquet'}: not there" in error
    assert f"{lost}: no such run folder" in refused("agreement", lost)
    assert "no two reviewers" in said("agreement", empty)
    assert "lost: cannot be read" in refused("checks", lost)
    error = refused("knowledge", TOLD, "--statistics", lost)
    assert f"{lost}: no co-occurrence statistics" in error and "again" in error
    assert not lost.exists() and not list(empty.iterdir()) and not (tmp_path / "out").exists()


def test_wrong_values_are_named_with_those_allowed(finished, tmp_path) -> None:
    error = refused("knowledge", "appendectomy of the moon")
    assert "'appendectomy of the moon'" in error and TOLD in error
    error = refused("build", finished, "--out", tmp_path / "out", "--export", "axolotl", "--export", "verl")
    assert "--export axolotl: one of llama-factory, ms-swift, verl" in error
    assert not (tmp_path / "out").exists()
    for options, why in (
        (["--reviewer", "Dr. Anna"], "a name is 1 to 40 of a-z"),
        (["--reviewer", "anna", "--with", "../ben"], "a name is 1 to 40 of a-z"),
        (["--reviewer", "anna", "--double", "2"], "share of double review 2.0: give a number from 0 to 1"),
        (["--reviewer", "anna", "--limit", "0"], "limit 0: a review needs at least one trace"),
        (["--reviewer", "anna", "--stage", "sft"], "--stage is coldstart or refine/iteration-N"),
        (["--reviewer", "anna", "--port", "70000"], "127.0.0.1:70000 cannot be listened on"),
    ):
        assert why in refused("review", finished, *options), options
    for text, why in (
        ("a: 1", "expected a list of traces, found dict"),
        ("[", "cannot be read"),
        ("- {id: x}", "entry 0 ('x'): KeyError('size')"),
        (
            LABELLED.replace("[no_leak]", "[no_leek]"),
            "entry 1 ('leak'): ValueError('unknown checks no_leek')",
        ),
    ):
        (tmp_path / "labelled.yaml").write_text(text)
        error = refused("checks", tmp_path / "labelled.yaml")
        assert "labelled.yaml: " in error and why in error


def test_damaged_files_of_a_run_are_named(finished, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    traces = run / "coldstart" / "traces"
    (run / "reviews").mkdir()
    (run / "reviews" / "anna.jsonl").write_text("{}\n{}\n")
    for command in (["build", run, "--out", tmp_path / "out"], ["agreement", run]):
        assert "anna.jsonl:1: not a decision" in refused(*command)
    shutil.rmtree(run / "reviews")
    (traces / "accepted.parquet").write_bytes(b"PAR1 but not really")
    for command in (
        ["build", run, "--out", tmp_path / "out"],
        ["composition", run],
        ["check", traces / "accepted.parquet"],
        ["review", run, "--reviewer", "anna"],
    ):
        assert f"{traces / 'accepted.parquet'}: not a" in refused(*command)
    for name in ("traces.sqlite-wal", "traces.sqlite-shm"):
        (traces / name).unlink(missing_ok=True)
    (traces / "traces.sqlite").write_bytes(b"no database" * 500)
    assert f"{traces / 'traces.sqlite'}: not a store of traces" in refused("check", traces)
