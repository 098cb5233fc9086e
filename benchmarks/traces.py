"""How long it takes to check and write 320,000 reasoning traces (the size of Surg-R1-Data), and what memory
it needs.

    python benchmarks/traces.py [--traces 320000] [--long]

Simulated label files of several layouts are read once; their samples are repeated with new ids, and each
gets a trace of its own: the offline teacher's, or (`--long`, every second one) one of up to 110 more words a
level, worded anew, as commercial models write them. All goes the way of a synthesis: checks in two processes,
decisions into the store, conversations to Parquet. Memory is the most that this process and its workers hold
at a time, at a third and at the whole. The named alternative is the same checks in one process, on a tenth.
"""

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from surgr1.corpora.grid import PreparedImage
from surgr1.corpora.schema import Sample
from surgr1.corpora.sources import read_source
from surgr1.reasoning.trace import Trace, parse, render
from surgr1.simulator.verify import write_trial
from surgr1.synthesis.conversations import Conversation, in_batches, write_conversations
from surgr1.synthesis.offline import OfflineTeacher
from surgr1.synthesis.store import TraceStore
from surgr1.synthesis.synthesize import Job, conversation, decide_all

LAYOUTS = ("cholec80", "cholect50", "endoscapes", "sar-rarp50", "multibypass140", "endovis18-vqa", "grasp")
_LEADS = (
    "Looking at the operative field step by step, I first take in the whole frame before any detail",
    "Examining the image carefully, several elements can be told apart in spite of glare and moisture",
    "The picture is sharp enough to judge texture and colour, and the light comes from the camera's side",
    "At first glance the scene is crowded, so each element is taken one after the other from left to right",
)
_ASIDES = (
    "Reflections on moist surfaces are bright but do not hide the outlines",
    "The surroundings are slightly out of focus, which is common at this distance",
    "Some smoke or moisture softens the contrast without covering what matters",
    "The borders of the picture are dark and hold nothing that bears on the question",
    "The colours are warm and even, and the shadows fall away from the camera",
    "What lies behind is seen only in part and is left out of the reasoning",
)
_ADVERBS = ("clearly", "plainly", "evidently", "readily", "distinctly", "visibly", "easily", "well")


def longer(trace: Trace, draw: random.Random) -> Trace:
    """The trace with more to read in each level, worded anew; it claims nothing more."""
    levels = {}
    for k, text in trace.levels.items():
        asides = draw.sample(_ASIDES, 3)
        words = [
            f"{a}, as the {draw.choice(_ADVERBS)} drawn edges of region {draw.choice('abcdefgh')}"
            f"{draw.choice('abcdefgh')}{draw.choice('abcdefgh')} show"
            for a in asides
        ]
        levels[k] = f"{text} {draw.choice(_LEADS)} in {draw.choice(_ADVERBS)} lit parts. {'. '.join(words)}."
    return Trace(levels, trace.answer)


def jobs(samples: list[Sample], count: int, long: bool) -> Iterator[Job]:
    teacher, draw = OfflineTeacher(), random.Random(0)
    for n in range(count):
        sample = samples[n % len(samples)]
        sample = replace(sample, sample_id=f"{n:020d}")
        image = PreparedImage(Path("frame.png"), sample.width, sample.height, sample.width, sample.height)
        trace = teacher.trace(sample, image)
        if long and n % 2:
            trace = longer(trace, draw)
        yield Job(sample, image, render(trace), "teacher", 0, teacher.name)


def peak_mb() -> float:
    """Of this process and its children now (their own peaks are not kept by the system while they run)."""
    here = psutil.Process()
    children = sum(c.memory_info().rss for c in here.children(recursive=True))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + children) / 1e6


def run(
    samples: list[Sample], count: int, out: Path, *, workers: int, long: bool
) -> tuple[float, int, float]:
    """(seconds, accepted, peak MB)."""
    start, accepted, most = time.perf_counter(), 0, 0.0
    under_way: dict[str, tuple[Sample, PreparedImage]] = {}

    def remembered() -> Iterator[Job]:
        for job in jobs(samples, count, long):
            under_way[job.sample.sample_id] = job.sample, job.image
            yield job

    with TraceStore(out) as store:

        def written() -> Iterator[Conversation]:
            nonlocal accepted, most
            for batch in in_batches(decide_all(remembered(), workers=workers), 256):
                store.put(batch)
                most = max(most, peak_mb())
                for decision in batch:
                    sample, image = under_way.pop(decision.sample_id)
                    if decision.accepted:
                        accepted += 1
                        yield conversation(sample, image, decision)

        write_conversations(out / "accepted.parquet", written())
    return time.perf_counter() - start, accepted, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=320_000)
    parser.add_argument("--long", action="store_true", help="every second trace is long and worded anew")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        samples: list[Sample] = []
        for layout in LAYOUTS:
            source, _ = write_trial(layout, place / layout)
            samples += read_source(source)
        words = [len(parse(j.text).text.split()) for j in jobs(samples, 2000, args.long)]
        print(
            f"{len(samples)} samples of {len(LAYOUTS)} simulated layouts; words a trace: mean"
            f" {sum(words) / len(words):.0f}, most {max(words)}"
        )
        alone, _, _ = run(samples, args.traces // 10, place / "alone", workers=0, long=args.long)
        rate = args.traces // 10 / alone
        print(f"one process, {args.traces // 10:,} traces: {alone:.1f} s, {rate:,.0f} traces/s")
        for count in (args.traces // 3, args.traces):
            seconds, accepted, most = run(samples, count, place / f"all-{count}", workers=2, long=args.long)
            print(
                f"two processes, {count:,} traces: {seconds:.1f} s, {count / seconds:,.0f} traces/s"
                f" ({count / seconds / rate:.2f} x one process), {accepted / count:.2%} accepted,"
                f" peak {most:,.0f} MB"
            )


if __name__ == "__main__":
    main()
