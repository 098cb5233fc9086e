"""Co-occurrence statistics: a corpus small enough to count by hand, a slow plain count of a simulated one,
and files that are damaged, missing or half written.
"""

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import surgr1.synthesis.statistics as module
from surgr1.corpora.build import build, corpus_samples
from surgr1.corpora.cooccurrence import FrameLabels, count_labels
from surgr1.corpora.schema import SAMPLE_SCHEMA, Labels, Sample, to_row
from surgr1.corpora.sources import Source
from surgr1.ontology.tasks import Task
from surgr1.ontology.vocabularies import vocabulary
from surgr1.simulator.world import SimPlan, Tree, simulate
from surgr1.synthesis.statistics import (
    StatisticsError,
    compute_statistics,
    read_statistics,
    write_statistics,
)

CHOLECYSTECTOMY = "laparoscopic cholecystectomy"
PREPARATION, CALOT, CLIPPING = "preparation", "calot triangle dissection", "clipping and cutting"


def sample(
    frame, labels, *, dataset="cholect50", video="VID01", operation="cholec/1", role="train", task=None
) -> Sample:
    return Sample(
        dataset, "c", CHOLECYSTECTOMY, operation, video, frame, float(frame), "x.png", 100, 100,
        task or Task.PHASE_RECOGNITION, "q", (), "open", "", "x", labels, role, role, "public", "",
    )  # fmt: skip


def write(corpus: Path, dataset: str, *parts: list[Sample]) -> None:
    """A built dataset: part files and source.json."""
    folder = corpus / dataset
    folder.mkdir(parents=True)
    for k, rows in enumerate(parts):
        table = pa.Table.from_pylist([to_row(s) for s in rows], schema=SAMPLE_SCHEMA)
        pq.write_table(table, folder / f"part-{k:05d}-of-{len(parts):05d}.parquet", row_group_size=3)
    body = {"dataset": dataset, "fingerprint": f"print of {dataset}", "split": "default"}
    (folder / "source.json").write_text(json.dumps(body))


def tools_labels(phase, *triplets) -> Labels:
    return Labels(tools=tuple(dict.fromkeys(t[0] for t in triplets)), triplets=triplets, phase=phase)


GRASP, RETRACT = ("grasper", "grasp", "gallbladder"), ("grasper", "retract", "gallbladder")
DISSECT = ("hook", "dissect", "cystic duct")


@pytest.fixture
def corpus(tmp_path) -> Path:
    """CholecT50: VID01 with phases P P C C P and VID02 with C; Cholec80 has VID01's operation again and one
    of its own.
    """
    one = [
        sample(0, tools_labels(PREPARATION, GRASP)),
        sample(0, tools_labels(PREPARATION, GRASP), task=Task.TOOL_RECOGNITION),
        sample(0, tools_labels(PREPARATION, GRASP), task=Task.TRIPLET_EXTRACTION),
        sample(1, tools_labels(PREPARATION)),
        sample(2, tools_labels(CALOT, RETRACT, DISSECT)),
        # A frame's questions need not follow each other, nor its frames.
        sample(4, tools_labels(PREPARATION, GRASP)),
        sample(3, tools_labels(CALOT, DISSECT)),
        sample(2, tools_labels(CALOT, RETRACT, DISSECT), task=Task.TOOL_RECOGNITION),
        sample(5, tools_labels(CLIPPING, DISSECT), role="test"),
    ]
    two = [sample(0, tools_labels(CALOT, DISSECT, GRASP), video="VID02", operation="cholec/2")]
    write(tmp_path, "cholect50", one, two)
    bag = Labels(tools=("specimen bag",), phase=CALOT)
    again = {"dataset": "cholec80", "video": "video01", "operation": "cholec/1"}
    own = {"dataset": "cholec80", "video": "video03", "operation": "cholec/3"}
    write(
        tmp_path,
        "cholec80",
        [
            *(sample(k, bag, **again) for k in range(7)),
            sample(0, bag, **own),
            sample(25, Labels(phase=CLIPPING), **own),
        ],
    )
    return tmp_path


def test_a_small_corpus_counts_as_it_does_by_hand(corpus) -> None:
    found = compute_statistics(corpus, ["cholect50", "cholec80"])
    assert list(found) == [CHOLECYSTECTOMY]
    tables = found[CHOLECYSTECTOMY].tables
    assert tables.triplets == {
        "grasper": {"grasp": {"gallbladder": 3}, "retract": {"gallbladder": 1}},
        "hook": {"dissect": {"cystic duct": 3}},
    }
    assert tables.triplet_frames == 6
    # Preparation: frames 0, 1 and 4 of VID01. Calot: 2 and 3, VID02's, and Cholec80's own video. The seven
    # frames of the operation that CholecT50 has already given count in no table.
    assert tables.tool_phase[PREPARATION]["grasper"] == (2, 3)
    assert tables.tool_phase[PREPARATION]["hook"] == (0, 3)
    assert tables.tool_phase[CALOT]["hook"] == (3, 4)
    assert tables.tool_phase[CALOT]["grasper"] == (2, 4)
    # CholecT50 has no bag among its tools: its frames say nothing of bags.
    assert tables.tool_phase[CALOT]["specimen bag"] == (1, 1)
    assert "specimen bag" not in tables.tool_phase[PREPARATION] and CLIPPING not in tables.tool_phase
    assert tables.target_phase[CALOT]["cystic duct"] == (3, 3)
    assert tables.target_phase[CALOT]["gallbladder"] == (2, 3)
    assert tables.target_phase[CALOT]["liver"] == (0, 3)
    assert tables.frames_of == {"phase": {PREPARATION: 3, CALOT: 4, CLIPPING: 1}}
    assert tables.follows == {
        "phase": {PREPARATION: {CALOT: 1}, CALOT: {PREPARATION: 1, CLIPPING: 1}, CLIPPING: {}}
    }
    assert tables.stays == {"phase": {PREPARATION: 1, CALOT: 1, CLIPPING: 0}}
    assert (tables.frames, tables.operations) == (8, 3)


def test_the_order_of_datasets_decides_whose_labels_of_a_shared_operation_count(corpus) -> None:
    tables = compute_statistics(corpus, ["cholec80", "cholect50"])[CHOLECYSTECTOMY].tables
    assert tables.tool_phase[CALOT]["specimen bag"] == (8, 8)
    assert PREPARATION not in tables.frames_of["phase"]
    # Only CholecT50 labels triplets: those of the shared operation count.
    assert tables.triplet_frames == 6


def test_provenance_says_where_the_counts_come_from(corpus) -> None:
    found = compute_statistics(corpus, ["cholect50", "cholec80"])[CHOLECYSTECTOMY]
    assert [(p.dataset, p.fingerprint, p.split, p.frames, p.videos) for p in found.provenance] == [
        ("cholect50", "print of cholect50", "default", 6, 2),
        ("cholec80", "print of cholec80", "default", 9, 2),
    ]
    assert not found.simulated and found.procedure == CHOLECYSTECTOMY and found.version


def test_clips_with_clocks_of_their_own_are_not_joined() -> None:
    def frame(video, seconds, action) -> FrameLabels:
        return FrameLabels("sar-rarp50", "p", "sar-rarp50/40", video, seconds, None, None, None, None, action)

    first = [frame("a", 0, "x"), frame("a", 1, "y")]
    overlapping = count_labels([*first, frame("b", 0, "z")])["p"]
    assert overlapping.follows["action"] == {"x": {"y": 1}, "y": {}, "z": {}}
    later = count_labels([*first, frame("b", 9, "y"), frame("b", 10, "z")])["p"]
    assert later.follows["action"] == {"x": {"y": 1}, "y": {"z": 1}, "z": {}}
    assert later.stays["action"] == {"x": 0, "y": 1, "z": 0} and later.operations == 1


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("statistics")
    centre = "sim-strasbourg-public"
    trees = (
        Tree(dataset="sim-cholect50", centre=centre, seconds=40, train=(1, 2), test=(42,)),
        Tree(dataset="sim-multibypass140", centre="sim-bern-public", seconds=24, train=(1,)),
    )
    simulate(root / "world", SimPlan(trees=trees), workers=1)
    build(
        [
            Source(
                dataset=t.dataset,
                root=root / "world" / t.dataset,
                policy="public",
                role="train" if t.layout == "multibypass140" else None,
            )
            for t in trees
        ],
        root / "corpus",
    )
    return root / "corpus"


def test_a_built_corpus_counts_as_a_slow_plain_reading_of_its_samples(simulated) -> None:
    datasets = ["sim-cholect50", "sim-multibypass140"]
    found = compute_statistics(simulated, datasets)
    frames: dict = {}
    for dataset in datasets:
        for s in corpus_samples(simulated, dataset):
            if s.role == "train":
                frames[s.procedure, s.canonical_video, s.seconds] = s
    assert {p for p, _, _ in frames} == set(found) and len(found) == 2
    for procedure, statistics in found.items():
        mine = [s for (p, _, _), s in sorted(frames.items()) if p == procedure]
        assert statistics.frames == len(mine) and statistics.simulated
        triplets = Counter(t for s in mine for t in s.labels.triplets or ())
        assert {
            (tool, verb, target): n
            for tool, verbs in statistics.tables.triplets.items()
            for verb, targets in verbs.items()
            for target, n in targets.items()
        } == dict(triplets)
        presence: dict = defaultdict(lambda: [0, 0])
        for s in mine:
            if s.labels.tools is not None and s.labels.phase is not None:
                for tool in vocabulary(s.dataset, "tool").names:
                    presence[s.labels.phase, tool][0] += tool in s.labels.tools
                    presence[s.labels.phase, tool][1] += 1
        assert {
            (phase, tool): list(n)
            for phase, row in statistics.tables.tool_phase.items()
            for tool, n in row.items()
        } == presence
        for kind in ("phase", "step"):
            names = [(s.canonical_video, getattr(s.labels, kind)) for s in mine]
            steps = Counter(
                (a[1], b[1]) for a, b in pairwise(names) if a[0] == b[0] and None not in (a[1], b[1])
            )
            follows = statistics.tables.follows.get(kind, {})
            assert {(a, b): n for a, row in follows.items() for b, n in row.items()} == {
                pair: n for pair, n in steps.items() if pair[0] != pair[1]
            }
            stays = statistics.tables.stays.get(kind, {})
            assert {a: n for a, n in stays.items() if n} == {a: n for (a, b), n in steps.items() if a == b}
    assert found[CHOLECYSTECTOMY].tables.triplets and found[CHOLECYSTECTOMY].tables.follows["phase"]
    assert {s.role for d in datasets for s in corpus_samples(simulated, d)} > {"train"}


def test_progress_counts_part_files(corpus) -> None:
    seen: list[tuple[int, int]] = []
    compute_statistics(corpus, ["cholect50", "cholec80"], lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_statistics_read_back_and_simulated_ones_say_so_in_the_file(corpus, simulated, tmp_path) -> None:
    path = tmp_path / "deep" / "statistics.json"
    for root, dataset, is_simulated in (
        (corpus, "cholect50", False),
        (simulated, "sim-cholect50", True),
    ):
        found = compute_statistics(root, [dataset])
        write_statistics(path, found)
        assert read_statistics(path) == found
        assert json.loads(path.read_text())["simulated"] is is_simulated
        assert [p.name for p in path.parent.iterdir()] == ["statistics.json"]


def test_a_write_that_fails_leaves_the_old_file(corpus, tmp_path, monkeypatch) -> None:
    path = tmp_path / "s.json"
    found = compute_statistics(corpus, ["cholect50"])
    write_statistics(path, found)
    before = path.read_bytes()

    def full(self, *args, **kwargs) -> None:
        self.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StatisticsError, match=r"s\.json: cannot be written: No space left"):
        write_statistics(path, {})
    monkeypatch.undo()
    assert path.read_bytes() == before and not list(tmp_path.glob("*.part"))
    # What a killed process left behind is in nobody's way.
    (tmp_path / "s.json.123.part").write_text("half")
    write_statistics(path, found)
    assert read_statistics(path) == found


@pytest.mark.parametrize(
    "body", ["", "[]", "{", '{"version": "0", "simulated": false, "procedures": {"p": {}}}']
)
def test_a_damaged_statistics_file_is_named(tmp_path, body) -> None:
    path = tmp_path / "bad.json"
    path.write_text(body)
    with pytest.raises(StatisticsError, match=r"bad\.json: no co-occurrence statistics .*compute them again"):
        read_statistics(path)
    with pytest.raises(StatisticsError, match=r"absent\.json"):
        read_statistics(tmp_path / "absent.json")


def test_a_damaged_part_file_is_named(corpus) -> None:
    path = corpus / "cholect50" / "part-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StatisticsError, match=r"cholect50/part-00001-of-00002\.parquet: .*build it again"):
        compute_statistics(corpus, ["cholect50"])
    pq.write_table(pa.table({"video": ["a"]}), path)
    with pytest.raises(StatisticsError, match=r"part-00001-of-00002\.parquet"):
        compute_statistics(corpus, ["cholect50"])


def test_a_dataset_that_is_not_built_or_named_twice_is_refused(corpus) -> None:
    with pytest.raises(StatisticsError, match=r"grasp: no source\.json.*surgr1 data build"):
        compute_statistics(corpus, ["cholect50", "grasp"])
    with pytest.raises(StatisticsError, match="cholect50 more than once"):
        compute_statistics(corpus, ["cholect50", "cholect50"])


def test_a_video_in_two_part_files_is_refused(tmp_path) -> None:
    rows = [sample(0, tools_labels(PREPARATION, GRASP))]
    write(tmp_path, "cholect50", rows, rows)
    with pytest.raises(StatisticsError, match=r"VID01 is in part-00000-of-00002\.parquet too"):
        compute_statistics(tmp_path, ["cholect50"])


def test_only_the_columns_that_are_counted_are_read(corpus, monkeypatch) -> None:
    """Boxes and questions are most of a corpus' bytes."""
    read: set[str] = set()
    real = pq.ParquetFile.iter_batches

    def seen(self, *args, **kwargs):
        for batch in real(self, *args, **kwargs):
            read.update(batch.schema.names)
            read.update(f"labels.{f.name}" for f in batch.schema.field("labels").type)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", seen)
    assert module.compute_statistics(corpus, ["cholect50"])
    assert "labels.triplets" in read and "labels.action" in read
    assert not read & {"labels.boxes", "labels.cvs", "question", "options", "sample_id", "answer"}
