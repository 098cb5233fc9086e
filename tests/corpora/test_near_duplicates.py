"""Perceptual hashes on simulated and real pictures, and the search against comparing all pairs."""

import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from surgr1.corpora.grid import ImageError
from surgr1.corpora.near_duplicates import DISTANCE, DistanceError, near_duplicates, phash, phash_of
from surgr1.simulator.centres import CENTRES
from surgr1.simulator.operations import BYPASS, CHOLECYSTECTOMY, simulate_operation
from surgr1.simulator.render import render


def apart(a, b):
    return (a ^ b).bit_count()


@pytest.fixture(scope="module")
def operations():
    """Five pictures of each of three simulated operations."""
    found = []
    for procedure, seed, name in (
        (CHOLECYSTECTOMY, 1, "sim-strasbourg-public"),
        (CHOLECYSTECTOMY, 2, "sim-renji"),
        (BYPASS, 3, "sim-bern-public"),
    ):
        centre = CENTRES[name]
        scenes = simulate_operation(procedure, seed=seed, centre=centre, seconds=20).scenes
        found.append([Image.fromarray(render(s, centre).image) for s in scenes[2:20:4]])
    return found


def jpeg(picture):
    data = io.BytesIO()
    picture.save(data, format="JPEG", quality=60)
    return Image.open(data)


def scaled(picture, factor):
    return Image.fromarray(np.clip(np.asarray(picture) * factor, 0, 255).astype(np.uint8))


def with_margin(picture):
    wider = Image.new("RGB", (picture.width + 90, picture.height + 40))
    wider.paste(picture, (60, 20))
    return wider


CHANGES = {
    "as JPEG": jpeg,
    "as 512 x 512": lambda p: p.resize((854, 480)).resize((512, 512), Image.Resampling.BICUBIC),
    "darker": lambda p: scaled(p, 0.7),
    "brighter": lambda p: scaled(p, 1.15),
    "with a dark margin": with_margin,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_picture_is_found_after_a_change(operations, change):
    for picture in (p for pictures in operations for p in pictures):
        assert apart(phash_of(picture), phash_of(CHANGES[change](picture))) <= DISTANCE


def test_different_operations_do_not_match(operations):
    hashes = [[phash_of(p) for p in pictures] for pictures in operations]
    distances = [
        apart(a, b) for i, one in enumerate(hashes) for other in hashes[i + 1 :] for a in one for b in other
    ]
    assert len(distances) == 75
    assert min(distances) > DISTANCE


def test_real_operations_do_not_match_and_their_copies_do(real_samples):
    videos = real_samples / "cholect50" / "cholect50-challenge-val" / "videos"
    if not videos.is_dir():
        pytest.skip(f"no real pictures at {videos}")
    chance = random.Random(0)
    hashes = {}
    for folder in sorted(videos.iterdir()):
        for path in chance.sample(sorted(folder.glob("*.png")), 25):
            hashes[f"{folder.name}/{path.name}"] = phash(path)
    train = {n: h for n, h in hashes.items() if not n.startswith("VID75")}
    test = {n: h for n, h in hashes.items() if n.startswith("VID75")}
    assert near_duplicates(train.items(), test.items(), 10).pairs == []
    copied = sorted(test)[:5]
    copies = [(n, phash_of(jpeg(Image.open(videos / n).convert("RGB")).resize((512, 512)))) for n in copied]
    found = near_duplicates([*train.items(), *copies], test.items())
    assert {p.evaluation for p in found.pairs if p.train == p.evaluation} == set(copied)


def test_the_hash_is_that_of_the_definition():
    """A second way to the same bits: the DCT as a product of matrices, bits by comparison."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        grey = rng.integers(30, 255, (32, 32)).astype(np.uint8)
        n = np.arange(32)
        basis = np.cos(np.pi * np.outer(n, 2 * n + 1) / 64)
        low = (basis @ grey @ basis.T)[1:9, 1:9].ravel()
        bits = "".join("1" if v > np.median(low) else "0" for v in low)
        assert phash_of(Image.fromarray(grey)) == int(bits, 2)
        assert bits.count("1") == 32


@pytest.mark.parametrize("level", [0, 3, 90, 255])
def test_flat_pictures_have_no_hash(tmp_path, level):
    rng = np.random.default_rng(level)
    noise = rng.integers(-3, 4, (48, 64, 3))
    path = tmp_path / "flat.png"
    Image.fromarray(np.clip(level + noise, 0, 255).astype(np.uint8)).save(path)
    assert phash(path) is None


def test_flat_pictures_are_left_out_and_counted():
    train = [("a", None), ("b", 5), ("c", None)]
    found = near_duplicates(train, [("x", None), ("y", 5)])
    assert [(p.train, p.evaluation, p.distance) for p in found.pairs] == [("b", "y", 0)]
    assert (found.flat_train, found.flat_evaluation) == (2, 1)


def test_a_picture_that_is_none_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"bad\.png"):
        phash(tmp_path / "bad.png")


def brute(train, evaluation, distance):
    return sorted(
        (e, apart(a, b), t)
        for e, (_, b) in enumerate(evaluation)
        for t, (_, a) in enumerate(train)
        if apart(a, b) <= distance
    )


def flipped(code, bits):
    for bit in bits:
        code ^= 1 << bit
    return code


@settings(deadline=None)
@given(st.data())
def test_the_search_finds_exactly_the_pairs_within_the_distance(data):
    """Hashes around few centres, so that every distance up to the limit and beyond occurs."""
    distance = data.draw(st.integers(0, 9))
    centres = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3))
    bits = st.lists(st.integers(0, 63), max_size=distance + 2, unique=True)
    hashes = st.lists(st.builds(flipped, st.sampled_from(centres), bits), max_size=25)
    train = [(f"t{i}", h) for i, h in enumerate(data.draw(hashes))]
    evaluation = [(f"e{i}", h) for i, h in enumerate(data.draw(hashes))]
    found = near_duplicates(train, evaluation, distance).pairs
    assert [(int(p.evaluation[1:]), p.distance, int(p.train[1:])) for p in found] == brute(
        train, evaluation, distance
    )


@pytest.mark.parametrize("distance", [4, 15])
def test_pairs_at_the_very_limit_are_found_wherever_their_bits_lie(distance):
    rng = random.Random(distance)
    train = [("t", rng.getrandbits(64))]
    at = [flipped(train[0][1], rng.sample(range(64), distance)) for _ in range(50)]
    beyond = [flipped(train[0][1], rng.sample(range(64), distance + 1)) for _ in range(50)]
    found = near_duplicates(train, [(str(i), h) for i, h in enumerate(at + beyond)], distance)
    assert [p.evaluation for p in found.pairs] == [str(i) for i in range(50)]


def test_the_search_in_small_pieces_is_the_same(monkeypatch):
    rng = random.Random(1)
    centre = rng.getrandbits(64)
    train, evaluation = (
        [(str(i), flipped(centre, rng.sample(range(64), rng.randrange(6)))) for i in range(60)] for _ in "ab"
    )
    whole = near_duplicates(train, evaluation, 6)
    monkeypatch.setattr("surgr1.corpora.near_duplicates._CANDIDATES", 7)
    assert near_duplicates(train, evaluation, 6) == whole
    assert len(whole.pairs) == len(brute(train, evaluation, 6)) > 100


@pytest.mark.parametrize("distance", [-1, 16])
def test_distances_that_cannot_be_searched_are_refused(distance):
    with pytest.raises(DistanceError, match="expected 0-15"):
        near_duplicates([], [], distance)
