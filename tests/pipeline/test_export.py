"""A corpus in the formats of other trainers, checked by what their documents ask for."""

import json
import re

import pyarrow.parquet as pq
import pytest
from PIL import Image

from surgr1.corpora.build import build
from surgr1.corpora.sources import Source
from surgr1.pipeline.export import ExportError, export_corpus, read_plan
from surgr1.simulator.world import SimPlan, Tree, simulate

TREE = Tree(dataset="sim-cholect50", centre="sim-strasbourg-public", seconds=14, train=(1,), test=(42,))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    simulate(folder / "sim", SimPlan(trees=(TREE,)), workers=1)
    source = Source(dataset=TREE.dataset, root=folder / "sim" / TREE.dataset, policy="public")
    build([source], folder / "built")
    return folder / "built"


def plan(to: str, **more):
    return read_plan(to=to, min_tokens=4, max_tokens=24, **more)


def check_messages(row, turns) -> None:
    """One "<image>" for one picture, user and assistant in turn; boxes inside the picture."""
    assert [m["role"] for m in row["messages"]] == turns
    assert sum(m["content"].count("<image>") for m in row["messages"]) == len(row["images"]) == 1
    with Image.open(row["images"][0]) as picture:
        width, height = picture.size
    assert width % 28 == height % 28 == 0
    for x1, y1, x2, y2 in re.findall(r"\((\d+),(\d+)\),\((\d+),(\d+)\)", row["messages"][-1]["content"]):
        assert 0 <= int(x1) < int(x2) <= width and 0 <= int(y1) < int(y2) <= height


def test_llama_factory_gets_sharegpt_with_its_description(corpus, tmp_path) -> None:
    written = export_corpus(corpus, tmp_path, plan("llama-factory"))
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    entry = info["train-sim-cholect50"]
    assert entry["formatting"] == "sharegpt" and entry["columns"] == {
        "messages": "messages",
        "images": "images",
    }
    tags = entry["tags"]
    rows = [json.loads(x) for x in (tmp_path / entry["file_name"]).read_text().splitlines()]
    assert len(rows) == written > 50
    for row in rows:
        check_messages(row, [tags["user_tag"], tags["assistant_tag"]])
        assert set(row["messages"][0]) == {tags["role_tag"], tags["content_tag"]}


def test_ms_swift_gets_its_standard_keys(corpus, tmp_path) -> None:
    export_corpus(corpus, tmp_path, plan("ms-swift", role="test", limit=7))
    rows = [json.loads(x) for x in (tmp_path / "test-sim-cholect50.jsonl").read_text().splitlines()]
    # The keys its standard format accepts.
    accepted = {"messages", "rejected_response", "label", "images", "videos", "audios", "tools", "objects"}
    assert len(rows) == 7 and all(set(r) <= accepted for r in rows)
    for row in rows:
        check_messages(row, ["user", "assistant"])


def test_verl_gets_prompts_with_their_ground_truth(corpus, tmp_path) -> None:
    export_corpus(corpus, tmp_path, plan("verl", limit=9))
    rows = pq.read_table(tmp_path / "train-sim-cholect50.parquet").to_pylist()
    assert len(rows) == 9
    for k, row in enumerate(rows):
        assert set(row) == {"data_source", "prompt", "images", "ability", "reward_model", "extra_info"}
        assert [m["role"] for m in row["prompt"]] == ["user"] and "<image>" in row["prompt"][0]["content"]
        assert row["reward_model"]["style"] == "rule" and row["reward_model"]["ground_truth"]
        assert row["extra_info"]["index"] == k and Image.open(row["images"][0]["image"]).size


def test_what_cannot_be_exported_is_named(corpus, tmp_path) -> None:
    with pytest.raises(ExportError, match="--to axolotl"):
        plan("axolotl")
    with pytest.raises(ExportError, match="no built corpus"):
        export_corpus(tmp_path, tmp_path / "out", plan("verl"))


def test_data_that_may_not_leave_is_not_exported(corpus, tmp_path) -> None:
    root = corpus.parent / "sim" / TREE.dataset
    build([Source(dataset=TREE.dataset, root=root, policy="local_only")], tmp_path / "built")
    with pytest.raises(ExportError, match="is local_only"):
        export_corpus(tmp_path / "built", tmp_path / "out", plan("ms-swift"))
    assert not list((tmp_path / "out").glob("*.jsonl"))
