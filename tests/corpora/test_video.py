"""Frame extraction. Every frame of the test videos shows its own number in black and white blocks, so that a
picture tells which frame it is.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from surgr1.corpora import video as module
from surgr1.corpora.files import LayoutError
from surgr1.corpora.frame_plans import find_videos, plan_frames
from surgr1.corpora.video import (
    STAMP,
    ByTime,
    EveryCeiling,
    EveryFrame,
    Job,
    TheseFrames,
    VideoError,
    extract,
    extract_all,
    finished,
)
from surgr1.ontology.errors import Stopped

WIDTH, HEIGHT, BLOCK, BITS = 192, 64, 32, 12
MILLI = Fraction(1, 1000)


def drawn(number: int) -> np.ndarray:
    """A picture (64, 192, 3) whose 2 x 6 blocks are the bits of `number`."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            y, x = divmod(bit, WIDTH // BLOCK)
            picture[y * BLOCK : (y + 1) * BLOCK, x * BLOCK : (x + 1) * BLOCK] = 255
    return picture


def number_of(picture: Image.Image) -> int:
    grey = np.asarray(picture.convert("L").resize((WIDTH, HEIGHT)))
    blocks = grey.reshape(HEIGHT // BLOCK, BLOCK, WIDTH // BLOCK, BLOCK).mean(axis=(1, 3)).ravel()
    return sum(1 << bit for bit, value in enumerate(blocks) if value > 127)


def make(path, frames=60, rate=25, *, codec="libx264", times=None, faststart=False, **options):
    """A video of numbered frames; `times` are in milliseconds (variable rate), else `rate` is constant."""
    if codec == "libx264":
        options = {"preset": "ultrafast", "g": "12"} | options
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(path), "w", options=flags) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        base = Fraction(1, 1) / rate if times is None else MILLI
        stream.codec_context.time_base = base
        for i in range(frames if times is None else len(times)):
            frame = av.VideoFrame.from_ndarray(drawn(i), format="rgb24")
            frame.pts, frame.time_base = (i if times is None else times[i]), base
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def numbers(folder):
    """File name -> number that the picture shows."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".png", ".jpg"):
            with Image.open(path) as picture:
                found[path.name] = number_of(picture)
    return found


def job(video, keep=None, name="{index1:06d}.png", **options):
    return Job(video, video.parent / "out", keep or EveryFrame(25), name, **options)


# Variable rate: steady, a pause of 1.9 s, a burst, a pause of 3.2 s.
VARIABLE = [0, 40, 80, 120, 2020, 2030, 2040, 2400, 2990, 3000, 3010, 6210, 6250]


def by_filter(video, rate, rounding):
    """The numbers that FFmpeg's own fps filter lets through: an independent witness."""
    found = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        source = graph.add_buffer(template=stream)
        fps = graph.add("fps", f"fps={rate}:round={rounding}")
        sink = graph.add("buffersink")
        source.link_to(fps)
        fps.link_to(sink)
        graph.configure()
        for frame in [*container.decode(stream), None]:
            graph.push(frame)
            while True:
                try:
                    found.append(number_of(graph.pull().to_image()))
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
    return found


def test_every_25th_frame_is_taken_and_counted_from_one(tmp_path):
    video = make(tmp_path / "video01.mp4", 76)
    found = extract(job(video, name="video01_{index1:06d}.png"))
    assert numbers(tmp_path / "out") == {
        "video01_000001.png": 0,
        "video01_000002.png": 25,
        "video01_000003.png": 50,
        "video01_000004.png": 75,
    }
    assert (found.frames, found.pictures, found.written) == (76, 4, 4)
    assert found.constant
    assert found.rate == pytest.approx(25)
    assert found.seconds == pytest.approx(76 / 25)
    assert found.warnings == ()


@pytest.mark.parametrize(("codec", "name"), [("libx264", "b.avi"), ("mpeg4", "p.avi"), ("libx264", "b.mkv")])
def test_frames_are_numbered_as_shown_in_every_container(tmp_path, codec, name):
    # libx264 refers to later frames here: in AVI, the order of storing is not that of showing.
    options = {"preset": "fast", "bf": "2"} if codec == "libx264" else {}
    video = make(tmp_path / name, 61, 60, codec=codec, **options)
    found = extract(job(video, EveryFrame(6), "{frame:09d}.png", rate=60))
    assert numbers(tmp_path / "out") == {f"{n:09d}.png": n for n in range(0, 61, 6)}
    assert (found.frames, found.constant, found.warnings) == (61, True, ())


def test_listed_frames_are_taken_under_their_numbers(tmp_path):
    video = make(tmp_path / "clip.mp4", 40)
    extract(job(video, TheseFrames((0, 8, 16, 39)), "{frame1:03d}.jpg"))
    assert numbers(tmp_path / "out") == {"001.jpg": 0, "009.jpg": 8, "017.jpg": 16, "040.jpg": 39}


@pytest.mark.parametrize(("rate", "step"), [(24, 24), (Fraction(30000, 1001), 30)])
def test_the_ceiling_of_the_rate_is_read_from_the_header(tmp_path, rate, step):
    video = make(tmp_path / "video_01.mp4", 70, rate)
    extract(job(video, EveryCeiling(), "{index:05d}.png"))
    assert list(numbers(tmp_path / "out").values()) == list(range(0, 70, step))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_variable_rate_gives_the_frame_on_the_screen(tmp_path, suffix):
    video = make(tmp_path / f"v{suffix}", times=VARIABLE)
    found = extract(job(video, ByTime(2), "{index}.png"))
    shown = numbers(tmp_path / "out")
    assert len(shown) >= 13
    for i in range(13):
        last = max(n for n, t in enumerate(VARIABLE) if t <= i * 500)
        assert shown[f"{i}.png"] == last, i
    assert not found.constant
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("rule", "rounding"), [(ByTime(1, "nearest"), "near"), (ByTime(2, "nearest"), "near"), (ByTime(2), "up")]
)
@pytest.mark.parametrize("rate", [25, 30, None])
def test_pictures_by_time_are_those_of_ffmpegs_filter(tmp_path, rule, rounding, rate):
    video = make(tmp_path / "v.mp4", 100, rate) if rate else make(tmp_path / "v.mp4", times=VARIABLE)
    extract(job(video, rule, "{index:02d}.png"))
    expected = by_filter(video, rule.rate, rounding)
    assert len(expected) > 2
    assert list(numbers(tmp_path / "out").values()) == expected


def test_a_constant_rate_in_rounded_milliseconds_is_still_constant(tmp_path):
    # Matroska keeps 1/60 s as 17, 33, 50 ms.
    video = make(tmp_path / "v.mkv", 120, 60)
    found = extract(job(video, ByTime(10), "{index:02d}.png"))
    assert found.constant
    assert list(numbers(tmp_path / "out").values()) == list(range(0, 120, 6))


def test_counting_frames_of_a_variable_rate_is_reported(tmp_path):
    video = make(tmp_path / "v.mp4", times=VARIABLE)
    assert any("varies" in w for w in extract(job(video, EveryFrame(5), rate=None)).warnings)


def test_another_rate_than_documented_is_reported(tmp_path):
    video = make(tmp_path / "v.mp4", 60, 30)
    assert any("30.000 frames a second, 25 documented" in w for w in extract(job(video, rate=25)).warnings)


def test_pictures_are_resized_and_jpegs_follow_their_quality(tmp_path):
    video = make(tmp_path / "v.mp4", 30)
    sizes = []
    for quality in (20, 95):
        extract(Job(video, tmp_path / str(quality), EveryFrame(25), "{index}.jpg", (96, 32), quality=quality))
        picture = tmp_path / str(quality) / "1.jpg"
        with Image.open(picture) as image:
            assert image.size == (96, 32)
            assert number_of(image) == 25
        sizes.append(picture.stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("name", "codec", "share"),
    [
        *[("v.mp4", codec, s) for codec in ("libx264", "mpeg4") for s in (0.35, 0.5, 0.7, 0.9, 0.98, 0.9999)],
        # The last tenth of so small a Matroska file is an index.
        *[("v.mkv", "libx264", s) for s in (0.35, 0.5, 0.7, 0.9)],
        # AVI's index is at its end, too.
        *[("v.avi", codec, s) for codec in ("libx264", "mpeg4") for s in (0.7, 0.8)],
    ],
)
def test_a_cut_file_is_reported_keeps_its_pictures_and_continues_when_whole(tmp_path, name, codec, share):
    whole = make(tmp_path / name, 200, codec=codec, faststart=name == "v.mp4").read_bytes()
    cut = tmp_path / name
    cut.write_bytes(whole[: int(len(whole) * share)])
    wanted = job(cut, EveryFrame(5), "{frame:03d}.png")
    with pytest.raises(VideoError, match="cut short") as raised:
        extract(wanted)
    message = str(raised.value)
    promised = "an unknown number" if name == "v.mkv" else "200"
    got = re.search(rf"{name}: damaged or cut short: (\d+) of {promised}", message)
    assert got is not None, message
    left = numbers(tmp_path / "out")
    assert left == {f"{n:03d}.png": n for n in range(0, int(got[1]), 5)}
    assert int(got[1]) < 200
    assert finished(wanted) is None

    cut.write_bytes(whole)
    found = extract(wanted)
    assert numbers(tmp_path / "out") == {f"{n:03d}.png": n for n in range(0, 200, 5)}
    # Pictures of the cut file are not trusted.
    assert found.written == 40


def test_an_mp4_without_its_index_and_files_that_are_no_video_are_named(tmp_path):
    whole = make(tmp_path / "v.mp4", 60).read_bytes()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"
    make(tmp_path / "other.mp4", 60)
    concat = b"ffconcat version 1.0\nfile other.mp4\n"
    for data in (whole[: len(whole) // 2], b"", b"no video at all\n" * 99, playlist, concat):
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(data)
        with pytest.raises(VideoError, match=rf"bad\.mp4: not a whole video \({len(data)} bytes"):
            extract(job(bad))
    with pytest.raises(VideoError, match=r"gone\.mp4: no such video"):
        extract(job(tmp_path / "gone.mp4"))


def test_another_number_of_pictures_than_expected_is_an_error(tmp_path):
    video = make(tmp_path / "v.mp4", 60)
    with pytest.raises(VideoError, match=r"v\.mp4: 3 pictures of 60 frames, expected 4"):
        extract(job(video, expected=4))
    assert finished(job(video)) is None
    assert extract(job(video, expected=3)).pictures == 3
    with pytest.raises(VideoError, match="expected 4"):
        extract(job(video, expected=4))


def test_listed_frames_beyond_the_end_are_an_error(tmp_path):
    video = make(tmp_path / "v.mp4", 20)
    with pytest.raises(VideoError, match="1 pictures of 20 frames, expected 2"):
        extract(job(video, TheseFrames((0, 20)), expected=2))


def test_frames_that_an_edit_list_hides_are_not_missed(tmp_path):
    # Times before zero become an edit list, as where a clip was cut out without encoding it anew.
    video = make(tmp_path / "v.mp4", times=[40 * n - 400 for n in range(60)])
    found = extract(job(video, EveryFrame(1)))
    assert list(numbers(tmp_path / "out").values()) == list(range(60 - found.frames, 60))
    assert found.frames < 60


def test_times_that_run_back_stand_still_or_jump_are_refused(tmp_path):
    video = make(tmp_path / "v.mkv", codec="mjpeg", times=[0, 40, 80, 120, 160, 200])
    data = video.read_bytes()
    # The block of the frame at 120 ms: track 1, time, key frame.
    block = b"\x81\x00\x78\x80"
    assert data.count(block) == 1
    for moment, shown in ((20, "-0.060"), (80, "0.000")):
        video.write_bytes(data.replace(block, b"\x81" + moment.to_bytes(2, "big") + b"\x80"))
        with pytest.raises(VideoError, match=rf"v\.mkv: frame 3 is {shown} s after the one before it"):
            extract(job(video, ByTime(1)))
    far = make(tmp_path / "far.mp4", times=[0, 40, 700_040])
    with pytest.raises(VideoError, match=r"frame 2 is 700\.000 s after"):
        extract(job(far, ByTime(1), size=(32, 32)))


def test_absurdly_large_pictures_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    video = make(tmp_path / "v.mp4", 5)
    monkeypatch.setattr(module, "_MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(VideoError, match=r"v\.mp4: 192 x 64 pixels is over the limit"):
        extract(job(video))
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_stopped_continues_without_encoding_again(tmp_path):
    video = make(tmp_path / "v.mp4", 200)
    wanted = job(video, EveryFrame(10))
    asked = []
    with pytest.raises(Stopped):
        extract(wanted, stop=lambda: asked.append(0) is None and len(asked) > 3)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.png")}
    assert 0 < len(before) < 20
    found = extract(wanted)
    assert (found.pictures, found.written) == (20, 20 - len(before))
    assert list(numbers(tmp_path / "out").values()) == list(range(0, 200, 10))
    assert before.items() <= {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}.items()


def test_pictures_lost_with_their_stamp_or_emptied_are_made_again(tmp_path):
    video = make(tmp_path / "v.mp4", 200)
    wanted = job(video, EveryFrame(10))
    extract(wanted)
    out = tmp_path / "out"
    (out / STAMP).unlink()
    (out / "000003.png").unlink()
    (out / "000020.png").write_bytes(b"")
    assert extract(wanted).written == 2
    # With the stamp there, but a picture gone, it does not count as finished.
    (out / "000007.png").unlink()
    assert finished(wanted) is None
    assert extract(wanted).written == 1
    assert list(numbers(out).values()) == list(range(0, 200, 10))


def test_a_finished_video_is_not_even_opened(tmp_path, monkeypatch):
    video = make(tmp_path / "v.mp4", 60)
    first = extract(job(video))
    monkeypatch.setattr(av, "open", None)
    again = extract(job(video))
    assert (again.pictures, again.frames, again.written) == (first.pictures, first.frames, 0)


def test_another_video_or_another_job_makes_the_pictures_anew(tmp_path):
    video = make(tmp_path / "v.mp4", 60)
    extract(job(video))
    os.utime(video, ns=(1, 1))
    assert extract(job(video)).written == 3
    assert extract(job(video, size=(96, 32))).written == 3
    # Interrupted while making them anew: the old ones are still not trusted.
    with pytest.raises(Stopped):
        extract(job(video), stop=lambda: True)
    assert extract(job(video)).written == 3
    with Image.open(tmp_path / "out" / "000003.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)


def test_pictures_of_another_rule_in_the_folder_are_an_error(tmp_path):
    video = make(tmp_path / "v.mp4", 60)
    extract(job(video, EveryFrame(10)))
    with pytest.raises(VideoError, match="holds 6 pictures, 3 of them from"):
        extract(job(video))


def test_a_full_disk_is_named_and_leaves_no_half_picture(tmp_path, monkeypatch):
    video = make(tmp_path / "v.mp4", 200)
    write, written = Path.write_bytes, []

    def full(path, data):
        written.append(path)
        if len(written) > 4:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(VideoError, match=r"out: writing pictures failed: .*free space and run again"):
        extract(job(video, EveryFrame(10)))
    assert list(numbers(tmp_path / "out").values()) == [0, 10, 20]
    monkeypatch.undo()
    assert extract(job(video, EveryFrame(10))).pictures == 20
    assert not list((tmp_path / "out").glob(".*.part"))


@pytest.mark.parametrize("name", ["../{index}.png", "a/{index}.png", "{index}.gif", "{index}"])
def test_names_that_are_no_picture_in_the_folder_are_refused(tmp_path, name):
    with pytest.raises(VideoError, match="expected a file name"):
        job(tmp_path / "v.mp4", name=name)


def test_progress_counts_frames_up_to_the_promised_number(tmp_path):
    calls = []
    extract(job(make(tmp_path / "v.mp4", 100)), lambda *call: calls.append(call))
    assert calls[-1] == (100, 100)
    assert calls == sorted(calls)


def test_a_broken_video_does_not_stop_the_others(tmp_path):
    jobs = []
    for k in range(4):
        video = make(tmp_path / f"{k}.mp4", 60, faststart=True)
        jobs.append(Job(video, tmp_path / f"out{k}", EveryFrame(25), "{frame}.png"))
    whole = jobs[1].video.read_bytes()
    jobs[1].video.write_bytes(whole[: len(whole) * 3 // 4])
    jobs[2].video.write_bytes(b"")
    calls = []
    with pytest.raises(VideoError) as raised:
        extract_all(jobs, workers=2, progress=lambda *call: calls.append(call))
    message = str(raised.value)
    assert message.startswith("2 of 4 videos failed")
    assert re.search(r"1\.mp4: damaged or cut short: \d+ of 60", message)
    assert "2.mp4: not a whole video (0 bytes" in message
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for k in (0, 3):
        assert numbers(tmp_path / f"out{k}") == {f"{n}.png": n for n in (0, 25, 50)}
    for k in (1, 2):
        jobs[k].video.write_bytes(whole)
    found = extract_all(jobs)
    assert [Path(f.video).name for f in found] == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    assert [f.written for f in found] == [0, 3, 3, 0]


def test_two_videos_for_one_folder_are_refused(tmp_path):
    with pytest.raises(VideoError, match="more than one video"):
        extract_all([job(tmp_path / "a.mp4"), job(tmp_path / "b.mp4")])


_SCRIPT = """
import signal
import sys
from pathlib import Path
from surgr1.corpora.video import EveryFrame, Job, extract_all
if __name__ == "__main__":
    # A shell that starts the tests in the background makes SIGINT ignored in all their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(sys.argv[1])
    name, size = "{frame:04d}.png", (640, 480)
    jobs = [Job(root / "v.mp4", root / f"out{k}", EveryFrame(1), name, size) for k in range(9)]
    print([f.pictures for f in extract_all(jobs)])
"""


def test_an_interrupt_stops_in_order_and_a_rerun_continues(tmp_path):
    make(tmp_path / "v.mp4", 300)
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not list(tmp_path.glob("out*/*.png")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode != 0
    written = list(tmp_path.glob("out*/*.png"))
    assert 0 < len(written) < 9 * 300
    for path in written:
        with Image.open(path) as picture:
            picture.load()
    # Every stamp says that its folder is not whole.
    stamps = [json.loads(p.read_text())["found"] for p in tmp_path.glob(f"out*/{STAMP}")]
    assert None in stamps
    kept = {p: p.stat().st_mtime_ns for p in written}
    again = extract(Job(tmp_path / "v.mp4", written[0].parent, EveryFrame(1), "{frame:04d}.png", (640, 480)))
    assert again.pictures == 300
    assert numbers(written[0].parent) == {f"{n:04d}.png": n for n in range(300)}
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())


def test_pauses_that_avi_stores_as_empty_frames_are_neither_counted_nor_missed(tmp_path):
    times = [0, 40, 80, 500, 540]
    video = make(tmp_path / "v.avi", codec="mpeg4", times=times)
    found = extract(job(video, ByTime(10), "{index}.png"))
    assert (found.frames, found.constant) == (5, False)
    shown = {f"{i}.png": max(n for n, t in enumerate(times) if t <= 100 * i) for i in range(6)}
    assert shown.items() <= numbers(tmp_path / "out").items()


def test_cholec80_pictures_are_every_25th_frame_counted_from_one(tmp_path):
    # video01: picture 1733 is frame 25 * 1732 = 43300 (datasets-a.md 1.1, 1.2).
    make(tmp_path / "videos" / "video01.mp4", 51)
    make(tmp_path / "videos" / "video02.mp4", 10)
    (tmp_path / "videos" / "video01-timestamp.txt").touch()
    jobs = plan_frames("cholec80", tmp_path)
    assert jobs[0].picture(1732, 43300) == tmp_path / "frames" / "video01" / "video01_001733.png"
    assert [f.pictures for f in extract_all(jobs)] == [3, 1]
    assert numbers(tmp_path / "frames" / "video01") == {
        f"video01_00000{k}.png": 25 * (k - 1) for k in (1, 2, 3)
    }


def test_sar_rarp50_pictures_are_every_6th_frame_under_its_number(tmp_path):
    # Wherever the release puts it; the README's frames/ is used where it exists, else the tool's rgb/.
    make(tmp_path / "train1" / "video_02" / "video_left.avi", 20, 60, codec="mpeg4")
    make(tmp_path / "video_41" / "video_left.avi", 13, 60, codec="mpeg4")
    (tmp_path / "video_41" / "frames").mkdir()
    found = extract_all(plan_frames("sar-rarp50", tmp_path))
    assert [f.warnings for f in found] == [(), ()]
    names = {f"{n:09d}.png": n for n in (0, 6, 12)}
    assert numbers(tmp_path / "video_41" / "frames") == names
    assert numbers(tmp_path / "train1" / "video_02" / "rgb") == names | {"000000018.png": 18}


def test_multibypass140_pictures_are_those_of_the_official_ffmpeg_command(tmp_path):
    video = make(tmp_path / "StrasBypass70" / "videos" / "SBP07.mp4", 90)
    make(tmp_path / "BernBypass70" / "videos" / "BBP01.mp4", 30)
    jobs = plan_frames("multibypass140", tmp_path)
    assert [j.video.stem for j in jobs] == ["BBP01", "SBP07"]
    extract(jobs[1])
    expected = by_filter(video, 1, "near")
    assert len(expected) == 4
    assert numbers(tmp_path / "StrasBypass70" / "frames" / "SBP07") == {
        f"SBP07_0000000{i}.jpg": n for i, n in enumerate(expected, start=1)
    }


def test_autolaparo_has_every_25th_frame_of_videos_and_16_frames_of_clips(tmp_path):
    one, two = tmp_path / "Task 1 Surgical workflow recognition", tmp_path / "Task 2 Laparoscope motion"
    make(one / "videos" / "21.mp4", 27)
    make(two / "clips" / "001.mp4", 130)
    for wanted in plan_frames("autolaparo", tmp_path):
        extract(wanted)
    assert numbers(one / "frames" / "21") == {"0001.jpg": 0, "0002.jpg": 25}
    # 1-based, as published (datasets-a.md 8.3).
    kept = [1, 9, 17, 25, 33, 41, 50, 58, 66, 75, 83, 91, 100, 108, 116, 125]
    assert numbers(two / "frames" / "001") == {f"{n:03d}.jpg": n - 1 for n in kept}


def test_pitvqa_has_one_picture_per_ceiling_of_the_rate(tmp_path):
    make(tmp_path / "videos" / "video_24.mp4", 51, 25)
    make(tmp_path / "videos" / "video_01.mp4", 49, 24)
    for wanted in plan_frames("pitvqa", tmp_path):
        extract(wanted)
    assert numbers(tmp_path / "images" / "video_01") == {"00000.png": 0, "00001.png": 24, "00002.png": 48}
    assert numbers(tmp_path / "images" / "video_24") == {"00000.png": 0, "00001.png": 25, "00002.png": 50}


def test_cholectrack20_pictures_are_frames_1_26_51_beside_the_video(tmp_path):
    make(tmp_path / "Testing" / "VID01" / "VID01.mp4", 60)
    make(tmp_path / "Training" / "VID02" / "vid02.mp4", 30)
    jobs = plan_frames("cholectrack20", tmp_path)
    assert len(jobs) == 2
    for wanted in jobs:
        extract(wanted)
    assert numbers(tmp_path / "Testing" / "VID01" / "Frames") == {
        "000001.png": 0,
        "000026.png": 25,
        "000051.png": 50,
    }


@pytest.mark.parametrize(
    "layout", ["cholec80", "sar-rarp50", "multibypass140", "autolaparo", "pitvqa", "cholectrack20"]
)
def test_a_release_without_its_videos_is_named_with_what_was_looked_for(tmp_path, layout):
    (tmp_path / "labels").mkdir()
    with pytest.raises(LayoutError, match=rf"no videos of {layout}: looked for .*; found labels"):
        plan_frames(layout, tmp_path)


def test_a_release_of_pictures_has_nothing_to_extract(tmp_path):
    with pytest.raises(LayoutError, match="grasp is released as pictures"):
        plan_frames("grasp", tmp_path)


def test_the_layout_is_found_by_its_videos(tmp_path):
    places = {
        "cholec80": "videos/video01.mp4",
        "sar-rarp50": "train/video_02/video_left.avi",
        "multibypass140": "BernBypass70/videos/BBP01.mp4",
        "autolaparo": "Task 2/clips/001.mp4",
        "pitvqa": "videos/video_01.mp4",
        "cholectrack20": "Testing/VID01/VID01.mp4",
    }
    for layout, place in places.items():
        video = tmp_path / layout / place
        video.parent.mkdir(parents=True)
        video.touch()
        assert find_videos(tmp_path / layout) == plan_frames(layout, tmp_path / layout)
    (tmp_path / "cholec80" / "videos" / "video_01.mp4").touch()
    with pytest.raises(LayoutError, match="videos of cholec80 and pitvqa: name one"):
        find_videos(tmp_path / "cholec80")
    (tmp_path / "grasp" / "GraSP_1fps").mkdir(parents=True)
    with pytest.raises(LayoutError, match=r"looked for .*; found GraSP_1fps"):
        find_videos(tmp_path / "grasp")
