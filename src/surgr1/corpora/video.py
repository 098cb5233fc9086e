"""Pictures from the videos of a release: decoded once from front to back, exactly the frames that the labels
count, resumable, counted and timed.

Which frames a dataset keeps is in `corpora.frame_plans`.
"""

import io
import json
import math
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from surgr1.corpora.processes import interrupts_blocked
from surgr1.ontology.errors import Stopped, SurgR1Error

STAMP = ".frames.json"
"""In every folder of extracted pictures: the job, the video, and, written last, what was found."""
_MAX_PIXELS = 64_000_000
"""Per picture, as in `corpora.grid`; 8K video has 33 million."""
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,asf"
"""Demuxers that may open a file: none of those that follow names of other files or addresses (playlists)."""
_MAX_GAP = 600
"""Seconds. A longer pause between two frames is a damaged timestamp, not a still picture."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class VideoError(SurgR1Error):
    """A video that is damaged, cut short or not one, or pictures that cannot be written."""


@dataclass(frozen=True)
class EveryFrame:
    """Frames 0, step, 2 step, ... in the order of showing."""

    step: int


@dataclass(frozen=True)
class EveryCeiling:
    """Every ceil(r)-th frame, r being the frame rate in the header (PitVQA's rule)."""


@dataclass(frozen=True)
class TheseFrames:
    """The frames with these numbers (0-based, ascending)."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class ByTime:
    """`rate` pictures a second by timestamps, counted from the first frame.

    Picture i is the frame on the screen at i / rate seconds ("shown"), or the last frame whose time rounds to
    i / rate ("nearest"), which is what FFmpeg's filter fps=rate takes: at 1 fps about half a second later. A
    frame that stays longer than 1 / rate is written several times.
    """

    rate: int
    rule: Literal["shown", "nearest"] = "shown"

    def slot(self, ticks: int, base: tuple[int, int]) -> int:
        """The first picture that a frame at `ticks` can be; `base` is seconds per tick (numerator,
        denominator). "shown" forgives half a millisecond: Matroska rounds times to milliseconds.
        """
        if self.rule == "shown":
            return -((base[1] - 2000 * ticks * base[0]) * self.rate // (2000 * base[1]))
        return (2 * ticks * base[0] * self.rate + base[1]) // (2 * base[1])


Keep = EveryFrame | EveryCeiling | TheseFrames | ByTime


@dataclass(frozen=True)
class Job:
    """One video and the pictures wanted of it.

    `name` is a format string for a picture's file name in `target`: {index} and {index1} count pictures from
    0 and 1, {frame} and {frame1} count the video's frames; it ends in .png or .jpg. `size` (width, height)
    resizes. `expected` is the number of pictures there must be. `rate` is the documented frames per second;
    another one is reported in `Extracted.warnings`.
    """

    video: Path
    target: Path
    keep: Keep
    name: str
    size: tuple[int, int] | None = None
    expected: int | None = None
    rate: float | None = None
    quality: int = 95
    """Of JPEG, 1-100."""

    def __post_init__(self) -> None:
        shown = self.picture(0, 0).name
        if shown != self.name.format(index=0, index1=1, frame=0, frame1=1) or not re.search(
            r"\.(png|jpg)$", shown
        ):
            raise VideoError(f"name {self.name!r}: expected a file name without folders in .png or .jpg")
        if isinstance(self.keep, EveryFrame) and self.keep.step < 1:
            raise VideoError(f"every {self.keep.step}th frame: expected 1 or more")
        if isinstance(self.keep, ByTime) and self.keep.rate < 1:
            raise VideoError(f"{self.keep.rate} pictures a second: expected 1 or more")
        if isinstance(self.keep, TheseFrames) and list(self.keep.numbers) != sorted({*self.keep.numbers}):
            raise VideoError(f"frames {self.keep.numbers}: expected ascending numbers, each once")

    def picture(self, index: int, frame: int) -> Path:
        """Path of picture `index` (0-based), taken from frame `frame` (0-based)."""
        return self.target / self.name.format(index=index, index1=index + 1, frame=frame, frame1=frame + 1)


@dataclass(frozen=True)
class Extracted:
    """What a video held. `pictures` are in the folder now, `written` of them by this run. `rate` in frames
    per second and `constant` (frame rate) come from the timestamps, `seconds` is to the end of the last
    frame.
    """

    video: str
    pictures: int
    written: int
    frames: int
    rate: float
    constant: bool
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclass
class _Clock:
    """Times of the frames decoded so far, in ticks of `base` seconds from the first one."""

    base: tuple[int, int]
    frames: int = 0
    first: int = 0
    last: int = 0
    shortest: int = 0
    longest: int = 0

    def tick(self, time: int, video: Path) -> int:
        """Ticks since the first frame. Raises VideoError where time stands still, runs back or jumps."""
        if self.frames == 0:
            self.first = self.last = time
        else:
            step = time - self.last
            if step <= 0 or step * self.base[0] > _MAX_GAP * self.base[1]:
                raise VideoError(
                    f"{video}: frame {self.frames} is {self._seconds(step):.3f} s after the one before it:"
                    " the timestamps are damaged; copy the video again from the source"
                )
            self.shortest = min(self.shortest, step) if self.frames > 1 else step
            self.longest = max(self.longest, step)
            self.last = time
        self.frames += 1
        return time - self.first

    def _seconds(self, ticks: int) -> float:
        return ticks * self.base[0] / self.base[1]

    @property
    def constant(self) -> bool:
        """Whether all frames last equally long, but for the rounding of stored times (one tick, 2 ms)."""
        spread = self.longest - self.shortest
        return spread <= 1 or self._seconds(spread) <= 0.002

    def rate(self, fallback: float) -> float:
        """Mean frames per second."""
        span = self._seconds(self.last - self.first)
        return (self.frames - 1) / span if span else fallback

    def end(self, duration: int, rate: float) -> int:
        """Ticks from the first frame's start to the last one's end; `duration` is the last frame's, 0 where
        the container does not say.
        """
        return self.last - self.first + (duration or max(1, round(self.base[1] / (self.base[0] * rate))))


@contextmanager
def _opened(video: Path, threads: int) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) of a file. Raises VideoError."""
    import av

    if not video.is_file():
        raise VideoError(f"{video}: no such video")
    try:
        # Demuxers by name, local files only: a playlist named .mp4 must not open anything else.
        container = av.open(
            str(video), options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        )
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(
            f"{video}: not a whole video ({video.stat().st_size} bytes; {error}): 0 frames could be decoded;"
            " copy it again from the source"
        ) from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{video}: holds no video stream")
        stream = container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > _MAX_PIXELS:
            raise VideoError(f"{video}: {width} x {height} pixels is over the limit of {_MAX_PIXELS}")
        stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield container, stream


def _encode(job: Job, frame: Any) -> bytes:
    """The picture file of a decoded frame."""
    width, height = job.size or (frame.width, frame.height)
    picture = frame.to_image(width=width, height=height, interpolation="BICUBIC")
    data = io.BytesIO()
    if job.name.endswith(".png"):
        picture.save(data, format="PNG", compress_level=1)
    else:
        picture.save(data, format="JPEG", quality=job.quality)
    return data.getvalue()


def _write(path: Path, data: bytes) -> None:
    """All of it or nothing."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


class _Album:
    """The folder of pictures of one job. Pictures of an earlier, interrupted run are kept; if that run was of
    another job or of another file, they are made anew.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.kept = self.written = 0
        self._encoded: tuple[int, bytes] = (-1, b"")
        before = _stamp(job)
        self._anew = before is not None and (before["made"] != _identity(job) or before["anew"])
        job.target.mkdir(parents=True, exist_ok=True)
        self._stamp(None)

    def save(self, index: int, number: int, frame: Any) -> None:
        """Write picture `index` from frame `number`, unless it is there."""
        path = self.job.picture(index, number)
        self.kept += 1
        if not self._anew and path.is_file() and path.stat().st_size:
            return
        if self._encoded[0] != number:
            self._encoded = number, _encode(self.job, frame)
        _write(path, self._encoded[1])
        self.written += 1

    def close(self, found: Extracted) -> None:
        """Note that the folder is whole. Raises VideoError if it holds pictures of something else."""
        present = _present(self.job)
        if present != self.kept:
            raise VideoError(
                f"{self.job.target}: holds {present} pictures, {self.kept} of them from"
                f" {self.job.video.name}: the others are of another extraction; move them away and run again"
            )
        self._stamp(found)

    def _stamp(self, found: Extracted | None) -> None:
        body = {
            "made": _identity(self.job),
            "anew": found is None and self._anew,
            "found": found and asdict(found),
        }
        _write(self.job.target / STAMP, json.dumps(body, indent=1).encode())


def _present(job: Job) -> int:
    """How many pictures the folder holds."""
    suffix = Path(job.name).suffix
    return sum(p.suffix == suffix and p.name[0] != "." for p in job.target.iterdir())


def _identity(job: Job) -> dict[str, Any]:
    """What pictures depend on: the file's name, size and time, and the job."""
    state = job.video.stat()
    keep = {"rule": type(job.keep).__name__, **asdict(job.keep)}
    return {
        "video": [job.video.name, state.st_size, state.st_mtime_ns],
        # As JSON gives it back.
        "job": json.loads(json.dumps([keep, job.name, job.size, job.quality])),
    }


def _stamp(job: Job) -> dict[str, Any] | None:
    """The folder's stamp; None without one or with an unreadable one."""
    try:
        body = json.loads((job.target / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return body if isinstance(body, dict) and {"made", "anew", "found"} <= body.keys() else None


def finished(job: Job) -> Extracted | None:
    """What an earlier run found, if it completed this job on this very file (name, size, time) and the folder
    still holds as many pictures; else None.
    """
    if not job.video.is_file():
        return None
    stamp = _stamp(job)
    if stamp is None or stamp["found"] is None or stamp["made"] != _identity(job):
        return None
    found = stamp["found"]
    if _present(job) != found["pictures"]:
        return None
    return Extracted(**{**found, "video": str(job.video), "written": 0, "warnings": tuple(found["warnings"])})


def extract(
    job: Job,
    progress: Progress | None = None,
    *,
    threads: int = 0,
    stop: Callable[[], bool] | None = None,
) -> Extracted:
    """Write the pictures of one video, decoding it once from front to back (never seeking: that is not exact
    in every container). Pictures that are there are kept.

    `threads` decode (0: one per core). `progress` gets frames decoded and frames promised (0: unknown).
    Raises Stopped as soon as `stop` says so, VideoError on a damaged or short video (what could be decoded
    stays), on other counts than expected, on a full disk.
    """
    import av

    found = finished(job)
    if found is not None:
        return _as_expected(job, found)
    try:
        with _opened(job.video, threads) as (container, stream):
            return _as_expected(job, _extract(job, container, stream, progress, stop))
    except av.FFmpegError as error:
        # Of the decoder's set-up or of resizing; damaged data is told apart in `_extract`.
        raise VideoError(f"{job.video}: cannot be decoded: {error}") from error
    except OSError as error:
        raise VideoError(
            f"{job.target}: writing pictures failed: {error}; free space and run again (the pictures that are"
            " there are kept)"
        ) from error


def _as_expected(job: Job, found: Extracted) -> Extracted:
    if job.expected is not None and found.pictures != job.expected:
        raise VideoError(
            f"{job.video}: {found.pictures} pictures of {found.frames} frames, expected {job.expected}; is it"
            " the release's own file?"
        )
    return found


def _extract(
    job: Job, container: Any, stream: Any, progress: Progress | None, stop: Callable[[], bool] | None
) -> Extracted:
    import av

    promised: int = stream.frames
    header_rate = float(stream.average_rate or 0)
    base = (stream.time_base.numerator, stream.time_base.denominator)
    is_avi = container.format.name == "avi"
    # AVI stores no times. FFmpeg makes them up from the order of storing, which is not that of showing where
    # frames refer to later ones; there, frames are counted.
    by_count = is_avi and stream.codec_context.has_b_frames and stream.average_rate
    if by_count:
        base = (stream.average_rate.denominator, stream.average_rate.numerator)
    keep = job.keep
    if isinstance(keep, EveryCeiling):
        if not header_rate:
            raise VideoError(f"{job.video}: its header names no frame rate")
        keep = EveryFrame(math.ceil(header_rate))
    clock, album = _Clock(base), _Album(job)
    held: tuple[int, Any] | None = None
    duration = discarded = damaged = 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                # Decoders may conceal that the end of the packet is missing.
                raise _cut_short(job, clock, promised, album, "a frame's data are not whole")
            discarded += packet.is_discard
            for frame in packet.decode():
                number = clock.frames
                if frame.pts is None and not by_count:
                    raise VideoError(f"{job.video}: frame {number} has no timestamp")
                ticks = clock.tick(number if by_count else frame.pts, job.video)
                duration = 1 if by_count else frame.duration or 0
                damaged += frame.is_corrupt
                if isinstance(keep, ByTime):
                    slot = keep.slot(ticks, base)
                    while held is not None and album.kept < slot:
                        album.save(album.kept, *held)
                    held = number, frame
                elif number % keep.step == 0 if isinstance(keep, EveryFrame) else number in keep.numbers:
                    album.save(album.kept, number, frame)
                if number % 32 == 0:
                    if progress:
                        progress(number + 1, promised)
                    if stop and stop():
                        raise Stopped(
                            f"{job.video}: stopped after {number + 1} frames; run again to continue"
                        )
    except av.FFmpegError as error:
        raise _cut_short(job, clock, promised, album, str(error)) from error
    rate = clock.rate(header_rate)
    if clock.frames == 0 or not rate:
        raise _cut_short(job, clock, promised, album, "the data ends")
    end = clock.end(duration, rate)
    seconds = end * base[0] / base[1]
    # Frames that an edit list hides are promised too. In AVI, a pause is stored as empty frames. Matroska
    # promises a duration, which is that of the longest stream; sound may outlast the video a little.
    shown = end if is_avi and not by_count else clock.frames + discarded
    slack = 1.5 / rate if len(container.streams) == 1 else 1
    if shown < promised or (not promised and seconds + slack < (container.duration or 0) / 1e6):
        raise _cut_short(job, clock, promised, album, "the data ends")
    if isinstance(keep, ByTime) and held is not None:
        while album.kept < max(1, keep.slot(end, base)):
            album.save(album.kept, *held)
    if progress:
        progress(clock.frames, promised or clock.frames)
    found = Extracted(
        str(job.video),
        album.kept,
        album.written,
        clock.frames,
        round(rate, 6),
        clock.constant,
        round(seconds, 6),
        _warnings(job, clock, rate, damaged),
    )
    if job.expected in (None, found.pictures):
        album.close(found)
    return found


def _cut_short(job: Job, clock: _Clock, promised: int, album: _Album, reason: str) -> VideoError:
    return VideoError(
        f"{job.video}: damaged or cut short: {clock.frames} of"
        f" {promised or 'an unknown number of'} frames could be decoded ({reason}); their {album.kept}"
        f" pictures stay in {job.target}; copy the video again from the source and run again"
    )


def _warnings(job: Job, clock: _Clock, rate: float, damaged: int) -> tuple[str, ...]:
    """What may be as it should, but is not as documented."""
    found: list[str] = []
    if job.rate is not None and abs(rate / job.rate - 1) > 0.0005:
        found.append(f"{rate:.3f} frames a second, {job.rate:g} documented")
    if not clock.constant and not isinstance(job.keep, ByTime):
        found.append("the frame rate varies: pictures taken by counting frames are not equally far apart")
    if damaged:
        found.append(f"{damaged} frames are damaged")
    return tuple(found)


_stopping: Any = None
"""In a worker: the event that asks it to stop."""


def _start_worker(stopping: Any) -> None:
    global _stopping
    _stopping = stopping


def _work(job: Job, threads: int) -> Extracted:
    return extract(job, threads=threads, stop=_stopping.is_set)


def extract_all(jobs: Sequence[Job], workers: int = 2, progress: Progress | None = None) -> list[Extracted]:
    """`extract` for many videos, one per process; results in the order of `jobs`.

    A broken video does not stop the others: one VideoError at the end names each. Ctrl-C stops every worker
    within some frames; the same call continues. `progress` gets videos done and videos in all.
    """
    folders = [job.target.resolve() for job in jobs]
    twice = {f for f in folders if folders.count(f) > 1}
    if twice:
        raise VideoError(f"{', '.join(map(str, sorted(twice)))}: the pictures of more than one video")
    results = {i: found for i, job in enumerate(jobs) if (found := finished(job)) is not None}
    todo = [i for i in range(len(jobs)) if i not in results]
    failures: dict[int, str] = {}
    for i, found in results.items():
        try:
            _as_expected(jobs[i], found)
        except VideoError as error:
            failures[i] = str(error)
    if todo:
        workers = min(workers, len(todo))
        context = multiprocessing.get_context("spawn")
        stopping = context.Event()
        # Spawned, not forked: the parent may hold torch's threads.
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(stopping,)
        )
        threads = max(1, (os.cpu_count() or 1) // workers)
        try:
            with interrupts_blocked():
                futures = {pool.submit(_work, jobs[i], threads): i for i in todo}
            for done, future in enumerate(as_completed(futures), start=len(results) + 1):
                try:
                    results[futures[future]] = future.result()
                except VideoError as error:
                    failures[futures[future]] = str(error)
                if progress:
                    progress(done, len(jobs))
        except BrokenProcessPool as error:
            raise VideoError(
                "a process that extracts frames was killed (out of memory?); run again to continue"
            ) from error
        finally:
            stopping.set()
            pool.shutdown(cancel_futures=True)
    if failures:
        lines = "".join(f"\n  {failures[i]}" for i in sorted(failures))
        raise VideoError(
            f"{len(failures)} of {len(jobs)} videos failed, the others are done; mend and run again:{lines}"
        )
    return [results[i] for i in range(len(jobs))]
