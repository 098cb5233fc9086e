"""The `surgr1 data` commands as a person uses them, on simulated downloads."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from surgr1.simulator.world import SimPlan, Tree, simulate

CENTRE = "sim-strasbourg-public"
TREES = (
    Tree(dataset="sim-cholec80", centre=CENTRE, seconds=14, train=(6, 2), test=(41,)),
    Tree(dataset="sim-cholect50", centre=CENTRE, seconds=14, train=(1,), test=(6,)),
    Tree(dataset="sim-dsad", centre=CENTRE, seconds=14, train=(1,), test=(2,)),
)


def data(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "from surgr1.cli.app import main; main()"
    command = [sys.executable, "-c", code, "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("downloads")
    simulate(folder / "made", SimPlan(trees=TREES), workers=1)
    root = folder / "disk"
    for tree, name in zip(TREES, ("Cholec80", "camma/CholecT50", "dresden"), strict=True):
        shutil.copytree(folder / "made" / tree.dataset, root / name)
    return root


def recipe(folder: Path, **more: object) -> Path:
    path = folder / "corpus.yaml"
    sources = [{"dataset": t.dataset} for t in TREES]
    path.write_text(yaml.safe_dump({"name": "corpus", "sources": sources, **more}))
    return path


def test_from_a_folder_of_downloads_to_another_trainers_files(downloads, tmp_path) -> None:
    found = data("doctor", downloads, "--json")
    states = {d["dataset"]: d["state"] for d in json.loads(found.stdout)["datasets"]}
    assert found.returncode == 1
    assert states == {"sim-cholec80": "partial", "sim-cholect50": "partial", "sim-dsad": "partial"}

    # Cholec80 trains on video06, which CholecT50 tests on.
    refused = data("build", recipe(tmp_path), "--root", downloads, "--out", tmp_path / "out")
    assert (
        refused.returncode == 1 and "sim-cholec80 video06 (training) is sim-cholect50 VID06" in refused.stderr
    )
    leaks = data("leaks", recipe(tmp_path), "--root", downloads, "--json")
    assert leaks.returncode == 1
    assert json.loads(leaks.stdout)["shared"] == [
        {"train": "sim-cholec80", "evaluation": "sim-cholect50", "videos": ["sim:cholec/6"]}
    ]
    kept_apart = recipe(tmp_path, isolation={"leaks": "exclude"})
    built = data("build", kept_apart, "--root", downloads, "--out", tmp_path / "out")
    assert built.returncode == 0 and "samples of" in built.stdout, built.stderr
    assert "- sim-cholec80: video06" in (tmp_path / "out" / "README.md").read_text()
    assert data("leaks", kept_apart, "--root", downloads).returncode == 0

    shown = data("show", tmp_path / "out" / "sim-dsad", "--limit", 1, "--json")
    assert json.loads(shown.stdout)[0]["procedure"] == "robot-assisted rectal resection"
    exported = data(
        "export",
        tmp_path / "out",
        "--to",
        "llama-factory",
        "--out",
        tmp_path / "lf",
        "--limit",
        3,
        "--min-tokens",
        4,
        "--max-tokens",
        24,
    )
    assert exported.returncode == 0, exported.stderr
    assert len(json.loads((tmp_path / "lf" / "dataset_info.json").read_text())) == 3
    looked = data("duplicates", tmp_path / "out", "--every", 1, "--distance", 0, "--workers", 1, "--json")
    assert json.loads(looked.stdout)["pairs"] == []


def test_what_is_missing_is_said_or_left_out_when_asked(downloads, tmp_path) -> None:
    path = recipe(tmp_path, isolation={"leaks": "exclude"})
    part = downloads / "dresden"
    missing = data("build", path, "--root", part, "--out", tmp_path / "out")
    assert missing.returncode == 1 and "sim-cholec80" in missing.stderr
    built = data("build", path, "--root", part, "--out", tmp_path / "out", "--allow-missing")
    assert built.returncode == 0, built.stderr
    assert [p.parent.name for p in (tmp_path / "out").glob("*/source.json")] == ["sim-dsad"]
    for name in ("a", "b"):
        shutil.copytree(downloads / "camma" / "CholecT50", tmp_path / "twice" / name)
    twice = data("build", path, "--root", tmp_path / "twice", "--out", tmp_path / "out", "--allow-missing")
    assert twice.returncode == 1 and "name one with --data sim-cholect50=PATH" in twice.stderr


def test_the_shipped_corpus_names_the_papers_23_datasets_and_what_has_no_folder(tmp_path) -> None:
    found = data("build", "--recipe", "surgdb-3m", "--out", tmp_path)
    assert found.returncode == 1 and "no folder for" in found.stderr
    listed = json.loads(data("sources", "--json").stdout)
    assert sum(r["paper_images"] or 0 for r in listed if r["task_type"] != "extra") == 2_755_141


def test_a_licence_is_acknowledged_by_hand(downloads, tmp_path) -> None:
    folder = Path(shutil.copytree(downloads / "dresden", tmp_path / "dsad"))
    assert "acknowledged: dsad: CC BY 4.0" in data("licence", folder).stdout
    row = json.loads(data("doctor", folder, "--json").stdout)["datasets"][0]
    assert row["acknowledged"]
