"""How fast SurgDB-3M is built: label-only trees of full size in native layouts, with made-up labels and no
picture, read and written by `corpora.build`; the ratio is against `datasets.Dataset.from_generator` over the
same samples, one row at a time, in the same run.

    python benchmarks/corpus_build.py [--shares 0.1 0.333 1] [--rows 100000]

Trees, at full size with as many labelled frames as the real releases have: MultiBypass140, Cholec80,
CholecT50, Endoscapes-CVS, AutoLaparo, SAR-RARP50. The other datasets, whose labels are masks or which are
small, are left out.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surgr1.corpora.sources import Source, read_source
from surgr1.ontology.vocabularies import vocabulary

CHANCE = random.Random(0)


def _share(videos: int, share: float) -> int:
    return max(1, round(videos * share))


def _runs(length: int, names: int, mean: int) -> list[tuple[int, int, int]]:
    """(start, end, label) intervals that cover `length` seconds."""
    found, at = [], 0
    while at < length:
        end = min(length, at + CHANCE.randrange(mean // 2, mean * 2))
        found.append((at, end, CHANCE.randrange(names)))
        at = end
    return found


def multibypass140(root: Path, share: float) -> None:
    """The paper's 2,165,823 frames over 140 videos (it seems to count five folds; here they are one, of
    longer videos, and no split is read).
    """
    phases, steps = vocabulary("multibypass140", "phase"), vocabulary("multibypass140", "step")
    for centre, prefix in (("bern", "BBP"), ("strasbourg", "SBP")):
        labels = root / "labels" / centre / "labels_by70"
        labels.mkdir(parents=True)
        for n in range(1, _share(70, share) + 1):
            body = {
                kind: [
                    {"start": 1000 * a, "end": 1000 * b, "label_name": words.native[k], "label_id": k}
                    for a, b, k in _runs(15_470, count, 300)
                ]
                for kind, words, count in (("phases", phases, 12), ("steps", steps, 46))
            }
            (labels / f"{prefix}{n:02d}.mp4.json").write_text(json.dumps(body))


def cholec80(root: Path, share: float) -> None:
    """184,498 tool rows and 25 phase rows for each, over 80 videos."""
    phases, tools = vocabulary("cholec80", "phase"), vocabulary("cholec80", "tool")
    for folder in ("phase_annotations", "tool_annotations", "frames"):
        (root / folder).mkdir(parents=True)
    for n in range(1, _share(80, share) + 1):
        seconds = 2306
        rows = ["Frame\tPhase"]
        for a, b, k in _runs(seconds, 7, 300):
            rows += [f"{f}\t{phases.native[k]}" for f in range(25 * a, 25 * b)]
        rows.append(f"{25 * seconds}\t{rows[-1].split(chr(9))[1]}")
        (root / "phase_annotations" / f"video{n:02d}-phase.txt").write_text("\n".join(rows) + "\n")
        rows = ["Frame\t" + "\t".join(tools.native)]
        rows += [f"{25 * s}\t" + "\t".join(CHANCE.choice("01") for _ in tools.names) for s in range(seconds)]
        (root / "tool_annotations" / f"video{n:02d}-tool.txt").write_text("\n".join(rows) + "\n")


def cholect50(root: Path, share: float) -> None:
    """100,863 frames over 50 videos, two vectors each."""
    from surgr1.corpora.datasets import official_split
    from surgr1.ontology.vocabularies import triplet_parts

    words = {k: vocabulary("cholect50", k) for k in ("tool", "verb", "target", "triplet")}
    (root / "labels").mkdir(parents=True)
    (root / "videos").mkdir()
    parts = [triplet_parts(t) for t in words["triplet"].names]
    for video in sorted(official_split("cholect50"))[: _share(50, share)]:
        annotations = {}
        for frame in range(2017):
            phase, rows = frame // 300 % 7, []
            for k in CHANCE.sample(range(100), 2):
                tool, verb, target = (
                    words[w].ids[p] for w, p in zip(("tool", "verb", "target"), parts[k], strict=True)
                )
                rows.append(
                    [k, tool, 1.0, -1.0, -1.0, -1.0, -1.0, verb, target, 1.0, -1.0, -1.0, -1.0, -1.0, phase]
                )
            annotations[str(frame)] = rows
        (root / "labels" / f"{video}.json").write_text(json.dumps({"annotations": annotations}))


def endoscapes_cvs(root: Path, share: float) -> None:
    """58,585 frames over 201 videos in `annotation_coco_vid.json`."""
    categories = [
        {"id": i, "name": n}
        for i, n in enumerate(
            ("cystic_plate", "calot_triangle", "cystic_artery", "cystic_duct", "gallbladder", "tool"), start=1
        )
    ]
    for role, numbers in (("train", range(1, 121)), ("val", range(121, 162)), ("test", range(162, 202))):
        images = [
            {
                "file_name": f"{n}_{25 * s}.jpg",
                "height": 480,
                "width": 854,
                "id": n * 1_000_000 + 25 * s,
                "video_id": n,
                "frame_id": None,
                "ds": [CHANCE.choice((0.0, 1 / 3, 2 / 3, 1.0)) for _ in range(3)],
                "is_ds_keyframe": s % 5 == 0,
                "is_det_keyframe": s % 30 == 0,
            }
            for n in numbers[: _share(len(numbers), share)]
            for s in range(200, 491)
        ]
        (root / role).mkdir(parents=True)
        for name, kept in (
            ("annotation_coco_vid.json", images),
            ("annotation_ds_coco.json", [i for i in images if i["is_ds_keyframe"]]),
            ("annotation_coco.json", [i for i in images if i["is_det_keyframe"]]),
        ):
            body = {"images": kept, "annotations": [], "categories": categories}
            (root / role / name).write_text(json.dumps(body))


def autolaparo(root: Path, share: float) -> None:
    """83,243 frames over 21 videos."""
    folder = root / "Task 1 Surgical workflow recognition" / "labels"
    folder.mkdir(parents=True)
    for n in range(1, _share(21, share) + 1):
        rows = [f"{f}\t{1 + f // 600 % 7}" for f in range(1, 3965)]
        (folder / f"label_{n:02d}.txt").write_text("\n".join(["Frame\tPhase", *rows]) + "\n")


def sar_rarp50(root: Path, share: float) -> None:
    """160,000 actions at 10 Hz over 50 operations."""
    for n in range(1, _share(50, share) + 1):
        folder = root / f"video_{n:02d}"
        folder.mkdir(parents=True)
        rows = [(6 * i, i // 40 % 8) for i in range(3200)]
        (folder / "action_discrete.txt").write_text("".join(f"{f:09d},{a}\n" for f, a in rows))


TREES: dict[str, Callable[[Path, float], None]] = {
    "multibypass140": multibypass140,
    "cholec80": cholec80,
    "cholect50": cholect50,
    "endoscapes-cvs": endoscapes_cvs,
    "autolaparo": autolaparo,
    "sar-rarp50": sar_rarp50,
}


def sources(root: Path) -> list[Source]:
    """MultiBypass140's splits would be in pickles; its videos are all read for training."""
    return [
        Source(
            dataset=name,
            root=root / name,
            images="skip",
            role="train" if name == "multibypass140" else None,
        )
        for name in TREES
    ]


def measure(root: Path, out: Path) -> None:
    """Build in this process's own tree of processes and print samples, seconds and peak memory (a child of
    the benchmark, so that memory of one size does not count for the next).
    """
    from surgr1.corpora.build import build
    from surgr1.corpora.registry import Isolation

    # Nothing is trained on here; every frame counts.
    everything = Isolation(leaks="allow", reason="benchmark of made-up labels")
    start = time.monotonic()
    found = build(sources(root), out, isolation=everything, workers=2)
    seconds = time.monotonic() - start
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(
        json.dumps(
            {
                "samples": sum(found["dataset"].values()),
                "frames": sum(found["frames"].values()),
                "seconds": seconds,
                # Two readers at most are alive beside this process.
                "peak_mb": (own + 2 * largest) / 1024,
            }
        )
    )


def from_generator(root: Path, rows: int, cache: Path) -> float:
    """Samples per second of `datasets.Dataset.from_generator` over the first `rows` samples."""
    from itertools import islice

    import datasets

    from surgr1.corpora.schema import SAMPLE_SCHEMA, to_row

    datasets.disable_progress_bars()

    def generate() -> Any:
        chained = (s for source in sources(root) for s in read_source(source))
        for sample in islice(chained, rows):
            yield to_row(sample)

    start = time.monotonic()
    features = datasets.Features.from_arrow_schema(SAMPLE_SCHEMA)
    made = datasets.Dataset.from_generator(generate, features=features, cache_dir=str(cache))
    return len(made) / (time.monotonic() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 1 / 3, 1.0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows for datasets.from_generator")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(*args.child)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rate = 0.0
        for share in args.shares:
            root, out = folder / "trees", folder / "built"
            for layout, write in TREES.items():
                write(root / layout, share)
            command = [sys.executable, __file__, "--child", str(root), str(out)]
            found = json.loads(
                subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            )
            rate = found["samples"] / found["seconds"]
            print(
                f"share {share:5.3f}: {found['frames']:>9,} frames, {found['samples']:>9,} samples in"
                f" {found['seconds']:6.1f} s: {rate:>8,.0f} samples/s, peak {found['peak_mb']:,.0f} MB",
                flush=True,
            )
            if share == args.shares[-1]:
                plain = from_generator(root, args.rows, folder / "cache")
                print(f"datasets.Dataset.from_generator: {plain:,.0f} samples/s over {args.rows:,} rows")
                print(f"ratio {rate / plain:.1f} x (goals: 60,000 samples/s, 1,500 MB)")
            shutil.rmtree(root)
            shutil.rmtree(out)


if __name__ == "__main__":
    main()
