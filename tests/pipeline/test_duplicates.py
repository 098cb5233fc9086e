"""Near-duplicates between training and evaluation pictures of a built corpus."""

import shutil

import pytest

from surgr1.corpora.build import BuildError, build
from surgr1.corpora.sources import Source
from surgr1.pipeline import duplicates
from surgr1.pipeline.duplicates import corpus_duplicates
from surgr1.simulator.world import SimPlan, Tree, simulate

TREE = Tree(dataset="sim-cholect50", centre="sim-strasbourg-public", seconds=14, train=(1,), test=(42,))


@pytest.fixture
def tree(tmp_path):
    simulate(tmp_path / "sim", SimPlan(trees=(TREE,)), workers=1)
    return tmp_path / "sim" / TREE.dataset


def test_a_training_picture_among_the_test_pictures_is_found(tree, tmp_path, monkeypatch) -> None:
    """What no list of operations can tell: a file copied from one video to another."""
    shutil.copy(tree / "videos/VID01/000006.png", tree / "videos/VID42/000009.png")
    source = Source(dataset=TREE.dataset, root=tree, policy="public")
    build([source], tmp_path / "out")
    found = corpus_duplicates(tmp_path / "out", every=1, distance=0, workers=1)
    assert [(p.train, p.evaluation, p.distance) for p in found.pairs] == [
        ("sim-cholect50 VID01 videos/VID01/000006.png", "sim-cholect50 VID42 videos/VID42/000009.png", 0)
    ]
    # Kept for the next time, until the dataset is another.
    monkeypatch.setattr(duplicates, "_hash", None)
    assert corpus_duplicates(tmp_path / "out", every=1, distance=0) == found
    monkeypatch.undo()
    (tree / "videos/VID42/000009.png").unlink()
    shutil.copy(tree / "videos/VID42/000008.png", tree / "videos/VID42/000009.png")
    build([source], tmp_path / "out")
    assert not corpus_duplicates(tmp_path / "out", every=1, distance=0, workers=1).pairs


def test_a_folder_without_a_corpus_is_an_error(tmp_path) -> None:
    with pytest.raises(BuildError, match="no built corpus"):
        corpus_duplicates(tmp_path, distance=4)


def test_several_processes_find_what_one_finds(tree, tmp_path, monkeypatch) -> None:
    build([Source(dataset=TREE.dataset, root=tree, policy="public")], tmp_path / "out")
    alone = corpus_duplicates(tmp_path / "out", every=1, distance=12, workers=1)
    shutil.rmtree(tmp_path / "out" / "hashes")
    monkeypatch.setattr(duplicates, "_CHUNK", 8)
    assert corpus_duplicates(tmp_path / "out", every=1, distance=12, workers=2) == alone
