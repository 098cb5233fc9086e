"""The build of a corpus: deterministic, incremental, resumable; quarantine, isolation, card; readable by
others.
"""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import surgr1.corpora.build as building
from surgr1.corpora.build import BuildError, build, corpus_parts, corpus_samples, statistics_of
from surgr1.corpora.columns import Columns
from surgr1.corpora.files import LabelError, LayoutError
from surgr1.corpora.fingerprint import fingerprint
from surgr1.corpora.grid import ImageError
from surgr1.corpora.questions import Frame
from surgr1.corpora.registry import Isolation, LeakError
from surgr1.corpora.schema import SAMPLE_SCHEMA, Labels, read_samples, to_row
from surgr1.corpora.sources import Source, read_frames, read_source
from surgr1.ontology.tasks import Task
from surgr1.simulator.world import SimPlan, Tree, simulate

CENTRE = "sim-strasbourg-public"
TREES = (
    Tree(dataset="sim-cholec80", centre=CENTRE, seconds=14, train=(1, 2), test=(41,)),
    Tree(dataset="sim-cholect50", centre=CENTRE, seconds=14, train=(1,), test=(42,)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made")
    simulate(out, SimPlan(trees=TREES), workers=1)
    return out


@pytest.fixture
def world(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "world", copy_function=shutil.copy2))


def sources(world: Path) -> list[Source]:
    return [Source(dataset=t.dataset, root=world / t.dataset, policy="public") for t in TREES]


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_columns_give_the_rows_that_samples_give(world, tmp_path) -> None:
    """The fast road against the plain one: an object and a dict per sample."""
    build(sources(world), tmp_path / "out")
    for source in sources(world):
        plain = list(read_source(source))
        table = pa.Table.from_pylist([to_row(s) for s in plain], schema=SAMPLE_SCHEMA)
        pq.write_table(table, tmp_path / "plain.parquet")
        # Both through Parquet, which keeps boxes as 32-bit numbers.
        built = list(corpus_samples(tmp_path / "out", source.dataset))
        assert built == list(read_samples(tmp_path / "plain.parquet")) and len(built) == len(plain)
        body = statistics_of(tmp_path / "out", source.dataset)
        assert body["samples"] == len(plain) and body["counts"]["task"]["phase_recognition"] == sum(
            s.task is Task.PHASE_RECOGNITION for s in plain
        )
        assert sum(body["frames"].values()) == len({(s.video, s.frame) for s in plain})


def test_the_same_input_gives_the_same_bytes_in_one_process_or_several(world, tmp_path, monkeypatch) -> None:
    build(sources(world), tmp_path / "a")
    monkeypatch.setattr(building, "_FEW_VIDEOS", 0)
    monkeypatch.setattr(building, "_VIDEOS_PER_PART", 10)
    build(sources(world), tmp_path / "b", workers=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_changed_dataset_is_built_alone(world, tmp_path) -> None:
    out = tmp_path / "out"
    build(sources(world), out)
    before = {p: p.stat().st_mtime_ns for p in out.glob("*/part-*")}
    build(sources(world), out)
    assert {p: p.stat().st_mtime_ns for p in out.glob("*/part-*")} == before
    path = world / "sim-cholect50" / "labels" / "VID01.json"
    path.write_text(path.read_text() + "\n")
    build(sources(world), out)
    changed = {p.parent.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed == {"sim-cholect50"}


def test_what_a_recipe_no_longer_names_is_removed(world, tmp_path) -> None:
    build(sources(world), tmp_path / "out")
    build(sources(world)[:1], tmp_path / "out")
    assert [p.parent.name for p in (tmp_path / "out").glob("*/source.json")] == ["sim-cholec80"]


def test_a_killed_build_continues_with_its_parts(world, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(building, "_VIDEOS_PER_PART", 1)
    written: list[str] = []
    real = building._write_part

    def counted(part) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part.path.name)
        real(part)

    monkeypatch.setattr(building, "_write_part", counted)
    with pytest.raises(KeyboardInterrupt):
        build(sources(world), tmp_path / "out")
    assert not statistics_of(tmp_path / "out", "sim-cholec80")
    again: list[str] = []
    monkeypatch.setattr(building, "_write_part", lambda part: (again.append(part.path.name), real(part))[1])
    build(sources(world), tmp_path / "out")
    assert len(again) == 5 - 2
    monkeypatch.setattr(building, "_write_part", real)
    build(sources(world), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def spoil(world: Path, frames: int) -> None:
    """Make labelled frames of one Cholec T50 video unusable."""
    path = world / "sim-cholect50" / "labels" / "VID01.json"
    body = json.loads(path.read_text())
    for key in list(body["annotations"])[:frames]:
        body["annotations"][key] = [[0, 1]]
    path.write_text(json.dumps(body))


def test_bad_rows_go_to_quarantine_with_their_reason(world, tmp_path) -> None:
    spoil(world, 2)
    found = build(sources(world), tmp_path / "out", max_rejects=0.2)
    assert found["rejected"] == {"sim-cholect50": 2}
    rows = [json.loads(x) for x in (tmp_path / "out/sim-cholect50/quarantine.jsonl").read_text().splitlines()]
    assert [("VID01.json: frame 0" in r["where"], "15 numbers" in r["reason"]) for r in rows] == [
        (True, True),
        (False, True),
    ]
    assert found["frames"]["sim-cholect50"] == 26


def test_too_many_bad_rows_fail_the_build_naming_the_first(made, world, tmp_path) -> None:
    spoil(world, 2)
    with pytest.raises(
        BuildError, match=r"sim-cholect50: 2 rows .* beside 26 .*VID01\.json: frame 0.*quarantine"
    ):
        build(sources(world), tmp_path / "out", max_rejects=0.05)
    assert len((tmp_path / "out/sim-cholect50.part/quarantine.jsonl").read_text().splitlines()) == 2
    # Mended, the build goes on and leaves nothing behind.
    shutil.copytree(made / "sim-cholect50", world / "sim-cholect50", dirs_exist_ok=True)
    build(sources(world), tmp_path / "out", max_rejects=0)
    assert not list((tmp_path / "out").glob("*.part"))


def leaky(world: Path) -> list[Source]:
    first, second = sources(world)
    return [first, second.model_copy(update={"test": ("VID01",)})]


def test_a_leak_stops_the_build_unless_it_is_left_out_or_allowed(world, tmp_path) -> None:
    with pytest.raises(LeakError, match="sim-cholec80 video01"):
        build(leaky(world), tmp_path / "a")
    found = build(leaky(world), tmp_path / "b", isolation=Isolation(leaks="exclude"))
    assert found["excluded"] == {"sim-cholec80": ["video01"]}
    assert {s.video for s in corpus_samples(tmp_path / "b", "sim-cholec80")} == {"video02", "video41"}
    assert "video01" in (tmp_path / "b" / "README.md").read_text()
    allowed = Isolation(leaks="allow", reason="to show the damage")
    found = build(leaky(world), tmp_path / "c", isolation=allowed)
    assert found["isolation"]["reason"] == "to show the damage"
    assert "to show the damage" in (tmp_path / "c" / "README.md").read_text()


def test_a_split_without_a_video_is_an_error(world, tmp_path) -> None:
    with pytest.raises(LabelError, match="no video of split"):
        build([sources(world)[0].model_copy(update={"test": ("video99",)})], tmp_path / "out")


def test_a_question_that_stands_twice_is_kept_once(world) -> None:
    frame = next(read_frames(sources(world)[0]))
    twice = Frame(
        frame.source,
        procedure=frame.procedure,
        video=frame.video,
        frame=frame.frame,
        seconds=0.0,
        image=frame.image,
        size=frame.size,
        labels=Labels(),
        role="train",
        questions=(("What is shown?", "a hook"), ("What is shown?", "a grasper")),
    )
    columns = Columns()
    assert columns.add(twice) == ["surgical_vqa"]
    assert columns.table()["answer"].to_pylist() == ["a hook"]


def test_the_card_counts_beside_the_paper_and_says_simulated(world, tmp_path) -> None:
    found = build(sources(world), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Simulated data**" in card and "Not for clinical use" in card
    assert "86,344" in card and f"{sum(found['dataset'].values()):,} samples" in card
    assert "Samples by task" in card and "Apache-2.0" in card


def test_settings_files_and_code_change_the_fingerprint(world) -> None:
    source = sources(world)[0]
    stamps = {fingerprint(source), fingerprint(source.model_copy(update={"every": 2}))}
    (world / "sim-cholec80" / "notes.txt").write_text("new")
    stamps.add(fingerprint(source))
    assert len(stamps) == 3


def test_others_read_the_parts(world, tmp_path) -> None:
    import datasets
    import duckdb
    import polars

    out = tmp_path / "out"
    found = build(sources(world), out)
    total = sum(found["dataset"].values())
    pattern = str(out / "*" / "part-*.parquet")
    files = [str(p) for t in TREES for p in corpus_parts(out, t.dataset)]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "c"))
    assert loaded.num_rows == total and loaded[0]["labels"]["phase"] == "preparation"
    assert duckdb.sql(f"select count(*) from '{pattern}'").fetchall() == [(total,)]
    answers = duckdb.sql(f"select distinct labels.phase from '{pattern}' order by 1").fetchall()
    assert ("calot triangle dissection",) in answers
    frame = polars.read_parquet(pattern)
    assert frame.height == total and frame["task"].n_unique() == len(found["task"])


def test_links_out_of_the_folder_and_absurd_pictures_are_refused(world, tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    picture = world / "sim-cholect50" / "videos" / "VID01" / "000000.png"
    (secret / "a.png").write_bytes(picture.read_bytes())
    picture.unlink()
    picture.symlink_to(secret / "a.png")
    with pytest.raises(LayoutError, match=r"000000\.png: a symbolic link out of"):
        build(sources(world), tmp_path / "out")
    picture.unlink()
    Image.new("1", (9000, 9000)).save(picture)
    with pytest.raises(ImageError, match=r"000000\.png: 9000 x 9000 pixels is over the limit"):
        build(sources(world), tmp_path / "out")


def test_a_full_disk_is_named_and_nothing_half_written_counts(world, tmp_path, monkeypatch) -> None:
    def full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
    with pytest.raises(BuildError, match=r"part-00000.*No space left on device.*free space"):
        build(sources(world), tmp_path / "out")
    monkeypatch.undo()
    build(sources(world), tmp_path / "out")
    build(sources(world), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
