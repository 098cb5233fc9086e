"""Sources to Parquet: one file per dataset, checked for duplicates and leaks, with statistics."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from surgr1.corpora.generic import is_generic, read_description
from surgr1.corpora.registry import check_isolation
from surgr1.corpora.schema import Sample, write_samples
from surgr1.corpora.sources import LabelError, Source, read_source


def statistics(samples: Iterable[Sample]) -> dict[str, dict[str, int]]:
    """Counts per dataset, task, level, role, centre, policy."""
    counts: dict[str, Counter[str]] = {
        k: Counter() for k in ("dataset", "task", "level", "role", "centre", "policy")
    }
    frames: set[tuple[str, str, int]] = set()
    for s in samples:
        for key, value in (
            ("dataset", s.dataset),
            ("task", s.task),
            ("level", s.level),
            ("role", s.role),
            ("centre", s.centre),
            ("policy", s.policy),
        ):
            counts[key][str(value)] += 1
        frames.add((s.dataset, s.video, s.frame))
    counts["frames"] = Counter(d for d, _, _ in frames)
    return {k: dict(sorted(v.items())) for k, v in counts.items()}


def build(
    sources: Iterable[Source], out: Path, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, int]]:
    """Read every source, refuse duplicates and leaks, write `<dataset>.parquet` and `statistics.json`;
    returns the statistics.

    Raises LabelError on a question asked twice of the same frame, LeakError on a training video in an
    evaluation set.
    """
    sources = list(sources)
    everything: list[Sample] = []
    for done, source in enumerate(sources, start=1):
        samples = list(read_source(source))
        if not samples:
            raise LabelError(
                f"{source.dataset}: {source.root} gave no sample; check split {source.split!r} and the video"
                " lists"
            )
        seen: set[str] = set()
        for s in samples:
            if s.sample_id in seen:
                raise LabelError(
                    f"{s.dataset}: video {s.video} frame {s.frame}: {s.task} {s.focus} stands twice"
                )
            seen.add(s.sample_id)
        write_samples(out / f"{source.dataset}.parquet", samples)
        everything += samples
        if progress:
            progress(done, len(sources))
    check_isolation(everything)
    found = statistics(everything)
    (out / "statistics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def check_root(root: Path) -> dict[str, Any]:
    """What lies in a folder: the layout that can read it, counts, and the first problem of each layout that
    cannot.
    """
    from surgr1.corpora.sources import LAYOUTS, LayoutError
    from surgr1.ontology.errors import SurgR1Error

    problems: dict[str, str] = {}
    if not root.is_dir():
        raise LayoutError(f"{root}: no such folder")
    candidates = {layout: Source(dataset=layout, root=root, role="external") for layout in LAYOUTS}
    if is_generic(root):
        name = read_description(root).dataset
        candidates = {"generic": Source(dataset=name, root=root, format="generic", role="external")}
    for layout, source in candidates.items():
        try:
            samples = list(read_source(source))
        except LayoutError as error:
            problems[layout] = str(error)
        except SurgR1Error as error:
            return {"root": str(root), "layout": layout, "complete": False, "problem": str(error)}
        else:
            videos = Counter(s.video for s in {(s.video, s.frame): s for s in samples}.values())
            return {
                "root": str(root),
                "layout": layout,
                "complete": True,
                "videos": len(videos),
                "frames": sum(videos.values()),
                "samples": len(samples),
                "statistics": statistics(samples),
            }
    return {
        "root": str(root),
        "layout": None,
        "complete": False,
        "problem": "no known layout",
        "tried": problems,
    }
