"""Frame extraction against a bare PyAV loop that decodes, resizes and encodes the same frames of the same
file; in turn in one run.

    python benchmarks/frame_extraction.py [--seconds 60] [--repeats 6] [--step 25]

Makes an 854 x 480 video at 25 frames per second (H.264 where PyAV has an encoder, else MPEG-4) and keeps
every `--step`-th frame as a PNG of 512 x 288 pixels. Prints decoded frames per second by the clock and by
processor time (which other load disturbs less) and the medians of the pairwise ratios; the goal is 0.9.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from surgr1.corpora.video import EveryFrame, Job, extract

WIDTH, HEIGHT, RATE, SIZE = 854, 480, 25, (512, 288)


def make_video(path: Path, seconds: int) -> str:
    """A moving gradient with noise; returns the encoder's name."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 40, (HEIGHT + RATE, WIDTH + RATE, 3), np.uint8)
    gradient = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] // 8
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(seconds * RATE):
            k = i % RATE
            picture = (gradient + [i % 90, 20, 40] + noise[k : k + HEIGHT, k : k + WIDTH]).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return codec


def bare(video: Path, target: Path, step: int) -> int:
    """Decode, resize, encode: nothing is checked, resumed or written in two steps. Returns frames decoded."""
    target.mkdir()
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        number = 0
        for number, frame in enumerate(container.decode(stream), start=1):
            if (number - 1) % step == 0:
                picture = frame.to_image(width=SIZE[0], height=SIZE[1], interpolation="BICUBIC")
                picture.save(target / f"{number - 1:06d}.png", compress_level=1)
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--step", type=int, default=25)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = folder / "video.mp4"
        codec = make_video(video, args.seconds)
        # (clock, processor) seconds of every turn but the first, which warms up.
        spent: dict[str, list[tuple[float, float]]] = {"bare PyAV loop": [], "surgr1": []}
        frames: set[int] = set()
        for turn in range(args.repeats + 1):
            a, b = folder / "a", folder / "b"
            job = Job(video, b, EveryFrame(args.step), "{frame:06d}.png", SIZE)
            runs = {
                "bare PyAV loop": lambda a=a: bare(video, a, args.step),
                "surgr1": lambda job=job: extract(job).frames,
            }
            # Each goes first in every other turn.
            for label in sorted(runs, reverse=bool(turn % 2)):
                clock, processor = time.perf_counter(), time.process_time()
                frames.add(runs[label]())
                if turn:
                    spent[label].append((time.perf_counter() - clock, time.process_time() - processor))
            if len(frames) > 1 or any((b / p.name).read_bytes() != p.read_bytes() for p in a.iterdir()):
                raise SystemExit("the two did not write the same pictures")
            shutil.rmtree(a)
            shutil.rmtree(b)
    count = frames.pop()
    print(f"{codec}, {WIDTH} x {HEIGHT}, {count} frames, every {args.step}th kept as PNG of {SIZE}")
    for label, values in spent.items():
        for k, kind in enumerate(("clock", "processor")):
            middle = statistics.median(v[k] for v in values)
            pairs = zip(spent["bare PyAV loop"], values, strict=True)
            ratio = statistics.median(a[k] / b[k] for a, b in pairs)
            print(f"{label:15} {kind:10} median {middle:.3f} s, {count / middle:.0f} frames/s, {ratio:.3f} x")


if __name__ == "__main__":
    main()
