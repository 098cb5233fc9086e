"""Recipes that are refused with their place, manifests, the command line's exits, and (slow) the whole road
killed and continued.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from surgr1.corpora.build import corpus_parts
from surgr1.pipeline import stages
from surgr1.pipeline.doctor import examine
from surgr1.pipeline.manifest import (
    Manifest,
    ManifestError,
    read_manifest,
    stage_key,
    write_json,
    write_manifest,
)
from surgr1.pipeline.recipe import Difficulty, RecipeError, load_recipe
from surgr1.pipeline.run import plan
from surgr1.pipeline.stages import STAGE_TITLES, Run
from surgr1.training import refine

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"


def cli(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from surgr1.cli.app import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, **kwargs)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 0", "sede: 0", "sede"),
        ("iterations: 1", "iterations: 0", "refine.iterations"),
        ("simulate: smoke", "simulate: huge", "simulate"),
        ("min_tokens: 4", "min_tokens: 400", "larger than max_tokens"),
        ("dataset: sim-nanfang,", "dataset: sim-cuhk,", "more than once"),
        ("name: smoke", "name: [", "not valid YAML"),
        (
            "{steps: 6, batch_size: 16, learning_rate: 0.001, save_steps: 3}",
            "{steps: 6, learnin_rate: 1}",
            "coldstart.stage.learnin_rate",
        ),
    ],
)
def test_a_bad_recipe_names_the_key(tmp_path, old, new, message) -> None:
    text = (RECIPES / "smoke.yaml").read_text()
    assert old in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path, run_dir=tmp_path)
    assert "bad.yaml" in str(caught.value)


def test_grpo_without_a_cold_start_is_refused_with_the_reason(tmp_path) -> None:

    raw = yaml.safe_load((RECIPES / "smoke.yaml").read_text())
    del raw["coldstart"]
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(RecipeError, match="no rollout has the reasoning format"):
        load_recipe(path, run_dir=tmp_path)


def test_real_data_must_be_given_and_must_belong_to_the_recipe(tmp_path) -> None:
    with pytest.raises(RecipeError, match="--data cholect50=PATH"):
        load_recipe(RECIPES / "nano-cholect50.yaml", run_dir=tmp_path)
    with pytest.raises(RecipeError, match="does not read"):
        load_recipe(RECIPES / "smoke.yaml", run_dir=tmp_path, data={"cholec99": tmp_path})


@pytest.mark.parametrize("name", sorted(p.stem for p in RECIPES.glob("*.yaml")))
def test_shipped_recipes_load_and_plan(tmp_path, name) -> None:
    path = RECIPES / f"{name}.yaml"
    real = [s["dataset"] for s in yaml.safe_load(path.read_text())["sources"] if s["dataset"][:4] != "sim-"]
    recipe = load_recipe(path, run_dir=tmp_path, data=dict.fromkeys(real, tmp_path))
    steps = [s.name for s in plan(recipe)]
    trained = ["sft", "coldstart", "grpo", "refine"]
    stages = [x for s in trained for x in (s, f"bench-{s}")]
    base = ["base", "bench-base"] if recipe.model.nano else ["bench-base"]
    assert steps == [*([] if real else ["simulate"]), "data", *base, *stages, "report"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("generation.engine=vlm", "generation.engine"),
        ("grpo.stage.rollouts.engine=server", "needs base_url and shared"),
        ("seed", "expected KEY.KEY=VALUE"),
        ("seed.x=1", "expected KEY.KEY=VALUE"),
        ("seed=[", "not YAML"),
        ("grpo.difficulty.least=2", "grpo.difficulty.least"),
    ],
)
def test_a_bad_setting_names_the_key(tmp_path, setting, message) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(RECIPES / "smoke.yaml", run_dir=tmp_path, settings=[setting])


def test_settings_change_the_recipe_and_only_what_depends_on_them(tmp_path) -> None:
    """Another engine asks again; another launcher or tracker changes no result."""

    def keys(*settings: str) -> dict[str, str]:
        recipe = load_recipe(RECIPES / "smoke.yaml", run_dir=tmp_path, settings=settings)
        return {s.name: stage_key(s.name, s.config, {}) for s in plan(recipe)}

    plain = keys()
    assert keys("launcher=torchrun --nproc-per-node 2", "tracking=wandb") == plain
    other = keys("generation={engine: vllm}")
    changed = {name for name in plain if plain[name] != other[name]}
    assert changed == {"grpo", "refine", *(f"bench-{s}" for s in STAGE_TITLES)}


@pytest.fixture()
def run(tmp_path) -> Run:
    """A run whose training and measuring are played: the score of an adapter is written in it."""
    recipe = load_recipe(
        RECIPES / "smoke.yaml", run_dir=tmp_path, settings=["refine.early_stop=true", "refine.iterations=4"]
    )
    return Run(recipe, tmp_path, Console(quiet=True))


@pytest.mark.parametrize(
    ("scores", "iterations", "kept"),
    [
        ([50, 60, 55, 90, 95], 2, 60),
        ([50, 40, 90, 95, 96], 1, 50),
        ([50, 51, 52, 53, 54], 4, 54),
        ([50, 50, 52, 53, 54], 1, 50),
    ],
)
def test_refinement_stops_at_the_first_that_does_not_help(run, monkeypatch, scores, iterations, kept) -> None:
    """Measured on validation videos alone; the best adapter is the stage's, which may be the one before."""
    roles: list[tuple[str, ...]] = []

    def adapter(folder: Path, score: float) -> None:
        (folder / "adapter").mkdir(parents=True)
        (folder / "adapter" / "adapter_config.json").write_text(str(score))

    adapter(run.folder / "grpo", scores[0])
    for k in range(1, 5):
        report = dict.fromkeys(("hard", "retagged", "self_generated", "teacher_generated", "rejected"), 1)
        write_json(run.folder / "refine" / f"iteration-{k}" / "report.json", report)

    def fit(label, stage, *, adapter_in, conversations, out):
        adapter(out, scores[int(out.name[-1])])

    def measured(run, adapter, samples, folder, stage):
        return {"arena": {"public": {"value": float((adapter / "adapter_config.json").read_text())}}}

    monkeypatch.setattr(run, "fit", fit)
    monkeypatch.setattr(run, "select", lambda *_: [])
    monkeypatch.setattr(stages, "bench_samples", lambda run, wanted: roles.append(wanted) or [])
    monkeypatch.setattr(stages, "_measure", measured)
    counts = stages.refine(run)
    assert counts["iterations"] == iterations and set(roles) == {("validation",)}
    assert float((run.folder / "refine" / "adapter" / "adapter_config.json").read_text()) == kept


def test_prompts_of_no_use_are_left_out(run, monkeypatch) -> None:
    """Those the policy always or never gets right; when none is left the run ends and says so."""
    rates = {"a": 0.0, "b": 0.25, "c": 1.0, "d": 0.75}
    samples = [SimpleNamespace(sample_id=k) for k in rates]
    monkeypatch.setattr(refine, "pass_rates", lambda *_, **__: rates)
    monkeypatch.setattr(run, "engine", lambda adapter: nullcontext())
    kept = stages._learnable(run, samples, {}, Difficulty(), run.folder)
    assert [s.sample_id for s in kept] == ["b", "d"]
    assert json.loads((run.folder / "grpo" / "pass_rates.json").read_text()) == rates
    with pytest.raises(RecipeError, match=r"none is answered right in a share between 0\.4 and 0\.6"):
        stages._learnable(run, samples, {}, Difficulty(least=0.4, most=0.6), run.folder)


def test_doctor_trains_a_step_and_names_what_is_missing(tmp_path) -> None:
    recipe = load_recipe(RECIPES / "smoke.yaml", run_dir=tmp_path)
    found = examine(recipe, tmp_path)
    assert not found["problems"] and found["data"]["sim-cuhk"] == "will be simulated"
    assert min(found["step"]["gradient_norms"].values()) > 0
    settings = ["model={path: nowhere}", "launcher=no-such-launcher -n 2", "simulate=null"]
    settings += ["coldstart.teacher={kind: api, base_url: 'http://x', model: m, api_key_env: SURGR1_NO_KEY}"]
    bad = load_recipe(RECIPES / "smoke.yaml", run_dir=tmp_path, settings=settings)
    problems = "\n".join(examine(bad, tmp_path)["problems"])
    for part in (
        "nowhere is not there",
        "'no-such-launcher' is not on the PATH",
        "SURGR1_NO_KEY holds no key",
    ):
        assert part in problems
    assert "give --data sim-cuhk=PATH" in problems


def test_manifests_and_keys(tmp_path) -> None:
    manifest = Manifest("data", "k", "0", "c", {}, {}, {"n": 1}, 0.5, "now")
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    (tmp_path / "manifest.json").write_text("{half")
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        read_manifest(tmp_path)
    assert (
        stage_key("a", {"x": 1}, {})
        != stage_key("a", {"x": 2}, {})
        != stage_key("a", {"x": 2}, {"data": "z"})
    )


def test_the_command_line_fails_loudly(tmp_path) -> None:
    found = cli("run", str(tmp_path / "none.yaml"))
    assert found.returncode == 1 and "none.yaml" in found.stderr and "Traceback" not in found.stderr
    found = cli("data", "doctor", str(tmp_path), "--json")
    assert found.returncode == 1 and json.loads(found.stdout)["datasets"] == []
    found = cli("bench", "report", str(tmp_path))
    assert found.returncode == 1 and "run the recipe first" in found.stderr
    found = cli("train", "sft", str(RECIPES / "smoke.yaml"), "--out", str(tmp_path / "run"))
    assert found.returncode == 1 and "needs simulate" in found.stderr
    found = cli("run", str(RECIPES / "nano-cholect50.yaml"), "--data", "cholect50")
    assert found.returncode == 1 and "DATASET=PATH" in found.stderr


def test_every_command_has_help_with_an_example() -> None:
    for group in ([], ["data"], ["cot"], ["train"], ["bench"]):
        listing = cli(*group, "--help").stdout
        assert listing
    for command in (
        "run",
        "refine",
        "sim",
        "predict",
        "doctor",
        "data build",
        "data show",
        "data sources",
        "data doctor",
        "data licence",
        "data frames",
        "data unpack",
        "data duplicates",
        "data export",
        "data leaks",
        "cot synthesize",
        "cot check",
        "train sft",
        "train coldstart",
        "train grpo",
        "bench run",
        "bench report",
    ):
        assert "Example: surgr1" in cli(*command.split(), "--help").stdout, command


def test_an_evaluation_video_in_training_stops_the_build(tmp_path) -> None:

    from surgr1.simulator.world import SimPlan, Tree, simulate

    trees = (
        Tree(dataset="sim-cholec80", centre="sim-strasbourg-public", seconds=14, train=(1,)),
        Tree(dataset="sim-cholect50", centre="sim-strasbourg-public", seconds=14, test=(1,)),
    )
    simulate(tmp_path / "sim", SimPlan(trees=trees), workers=1)
    raw = yaml.safe_load((RECIPES / "smoke.yaml").read_text())
    raw |= {
        "simulate": None,
        "sources": [
            {"dataset": t.dataset, "root": str(tmp_path / "sim" / t.dataset), "policy": "public"}
            for t in trees
        ],
    }
    raw["sources"][1]["test"] = ["VID01"]
    (tmp_path / "leaky.yaml").write_text(yaml.safe_dump(raw))
    found = cli("data", "build", str(tmp_path / "leaky.yaml"), "--out", str(tmp_path / "run"))
    assert (
        found.returncode == 1
        and "sim-cholec80 video01 (training) is sim-cholect50 VID01 (evaluation)" in found.stderr
    )
    leaks = cli("data", "leaks", str(tmp_path / "leaky.yaml"), "--out", str(tmp_path / "run"), "--json")
    assert leaks.returncode == 1 and json.loads(leaks.stdout)["shared"][0]["videos"] == ["sim:cholec/1"]


def test_ctrl_c_stops_with_a_word_and_keeps_what_is_done(tmp_path) -> None:
    # A shell that starts the tests in the background makes SIGINT ignored in all their children.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from surgr1.cli.app import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "sim", str(tmp_path / "w")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    while not list((tmp_path / "w" / ".state").glob("*.json")) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to continue" in errors
    assert list((tmp_path / "w" / ".state").glob("*.json"))


def test_a_full_disk_is_named(tmp_path, monkeypatch) -> None:
    import errno

    from surgr1.ontology.errors import SurgR1Error
    from surgr1.simulator import world

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x.png"))

    monkeypatch.setattr(world, "write_video", full)
    tree = world.Tree(dataset="sim-sar-rarp50", centre="sim-cuhk", seconds=40, train=(1,))
    with pytest.raises(SurgR1Error, match=r"No space left.*free space"):
        world._write_one(tmp_path, tmp_path / "s.json", tree, 1, 0)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_road_killed_and_continued(tmp_path) -> None:
    """The smoke recipe, SIGKILLed at several points, ends with the same data as an undisturbed run; a further
    run finds all done.
    """
    command = [
        sys.executable,
        "-c",
        "from surgr1.cli.app import main; main()",
        "run",
        str(RECIPES / "smoke.yaml"),
        "--out",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*command, str(whole)], check=True, timeout=900, capture_output=True)
    # A moment inside each of: rendering, base training before and after its checkpoint, cold start,
    # refinement.
    for marker in (
        "sim/.state/sim-cholec80-1.json",
        "base/log.jsonl",
        "base/checkpoints/checkpoint-10/trainer_state.json",
        "coldstart/traces/traces.sqlite",
        "refine/iteration-1",
    ):
        process = subprocess.Popen(
            [*command, str(cut)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while not (cut / marker).exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(cut)], check=True, timeout=900, capture_output=True)
    for dataset in ("sim-cholect50", "sim-endoscapes"):
        parts = [corpus_parts(run / "data", dataset) for run in (whole, cut)]
        assert parts[0] and [p.read_bytes() for p in parts[0]] == [p.read_bytes() for p in parts[1]]
    for stage in ("base", "sft", "coldstart", "grpo", "refine"):
        rows = [
            {
                json.loads(x)["sample_id"]: json.loads(x)["text"]
                for x in (run / "bench" / stage / "predictions.jsonl").read_text().splitlines()
            }
            for run in (whole, cut)
        ]
        assert rows[0] == rows[1], stage
    assert (cut / "report.html").is_file()
    start = time.monotonic()
    again = subprocess.run([*command, str(cut)], check=True, timeout=120, capture_output=True, text=True)
    assert "ran " not in again.stdout and time.monotonic() - start < 30
    report = cli("bench", "report", str(cut), "--json")
    assert list(json.loads(report.stdout)) == ["base", "sft", "coldstart", "grpo", "refine"]
    table = cli("bench", "report", str(cut)).stdout
    assert "| Arena public " in table and "| valid format, external sets " in table
    planned = json.loads(
        cli("train", "plan", str(RECIPES / "smoke.yaml"), "--out", str(cut), "--json").stdout
    )
    assert [e["stage"] for e in planned["stages"]] == ["sft", "coldstart", "grpo", "refine"]
    assert all(e["memory_gib"]["total"] > 0 and e["update_hours"] > 0 for e in planned["stages"])
    trained = json.loads((cut / "sft" / "log.jsonl").read_text().splitlines()[0])["trainable"]
    assert planned["stages"][0]["adapter_parameters"] == trained
    merged = cli("train", "export", str(tmp_path / "merged"), "--run", str(cut), "--json")
    assert json.loads(merged.stdout)["relative_difference"] < 0.05
    image = next((cut / "images").rglob("*.png"))
    answer = cli("predict", str(image), "--run", str(cut), "--json")
    assert answer.returncode == 0 and "not for clinical use" in answer.stdout
