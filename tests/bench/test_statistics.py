"""Intervals and tests against scipy, slow references, closed cases and simulation (evaluation.md B9)."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import brier_score_loss

from surgr1.bench.calibration import CalibrationError, agreement, calibration
from surgr1.bench.statistics import (
    BCA_VIDEOS,
    MIN_VIDEOS,
    StatisticsError,
    bootstrap_p,
    bootstrap_weights,
    clusters,
    holm,
    interval,
    interval_warning,
    jackknife,
    paired_difference,
    resampled_sums,
    sign_flip_p,
    wilson,
)


def share(s):
    """right / asked of statistics (..., 2)."""
    return s[..., 0] / s[..., 1]


def answers(rng, videos=30, frames=20, spread=0.25, mean=0.5):
    """(videos, frames) of 0/1 whose share of ones differs from video to video."""
    p = np.clip(rng.normal(mean, spread, videos), 0, 1)
    return rng.random((videos, frames)) < p[:, None]


def by_video(right):
    return np.stack([right.sum(1), np.full(len(right), right.shape[1])], 1).astype(float)


def width(right, *, clustered, draws=1000, seed=0):
    rows = by_video(right) if clustered else by_video(right.reshape(-1, 1))
    found = interval(share(resampled_sums(rows, draws, seed)), right.mean())
    return found.high - found.low


def test_weights_draw_as_many_videos_as_there_are_also_within_strata() -> None:
    weights = bootstrap_weights(7, 50, seed=3)
    assert weights.shape == (50, 7) and (weights.sum(1) == 7).all() and weights.std() > 0
    strata = ["a", "b", "a", "c", "b", "b", "a"]
    weights = bootstrap_weights(7, 400, seed=3, strata=strata)
    for name, n in (("a", 3), ("b", 3), ("c", 1)):
        inside = weights[:, [s == name for s in strata]]
        assert (inside.sum(1) == n).all()
    assert (weights[:, 3] == 1).all(), "the only video of a stratum is always there"
    # Mean 1 and variance 1 - 1/n of each count of a multinomial over n.
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.15)
    assert weights[:, 0].var() == pytest.approx(2 / 3, abs=0.15)
    with pytest.raises(StatisticsError, match="2 strata for 3 videos"):
        bootstrap_weights(3, 10, seed=0, strata=["a", "b"])
    with pytest.raises(StatisticsError, match="at least one video"):
        bootstrap_weights(0, 10, seed=0)


def test_weights_equal_a_slow_resampling_of_rows() -> None:
    right = answers(np.random.default_rng(0), videos=6, frames=5)
    weights = bootstrap_weights(6, 40, seed=3)
    for w, value in zip(weights, share(weights @ by_video(right)), strict=True):
        picked = [x for video, k in zip(right, w, strict=True) for _ in range(int(k)) for x in video]
        assert value == pytest.approx(np.mean(picked))


def test_sums_in_blocks_are_the_weights_times_the_statistics(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    rows, strata = rng.random((9, 4)), list("aababbcca")
    whole = bootstrap_weights(9, 101, seed=5, strata=strata) @ rows
    monkeypatch.setattr("surgr1.bench.statistics._BLOCK", 9 * 7)
    assert np.allclose(resampled_sums(rows, 101, 5, strata), whole)


def test_video_intervals_are_wider_on_correlated_frames_and_equal_on_independent_ones() -> None:
    rng = np.random.default_rng(1)
    alike = answers(rng, videos=10, frames=100, spread=0.3)
    assert width(alike, clustered=True) > 2 * width(alike, clustered=False)
    ratios = [
        width(x, clustered=True, draws=400) / width(x, clustered=False, draws=400)
        for x in (answers(rng, videos=100, frames=10, spread=0.0) for _ in range(30))
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


def test_percentile_and_bca_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng, runs = np.random.default_rng(2), 300
    hits = dict.fromkeys(("percentile", "bca", "frames"), 0)
    for seed in range(runs):
        # The truth is 0.5 by symmetry; 30 videos of 20 frames each.
        right = answers(rng)
        rows, point = by_video(right), right.mean()
        draws = share(bootstrap_weights(30, 500, seed) @ rows)
        frames = rng.binomial(right.size, point, 500) / right.size
        found = {
            "percentile": interval(draws, point),
            "bca": interval(draws, point, jackknife(rows, share)),
            "frames": interval(frames, point),
        }
        assert [found[k].method for k in hits] == ["percentile", "bca", "percentile"]
        for name, i in found.items():
            hits[name] += i.low <= 0.5 <= i.high
    tolerance = 3.3 * (0.95 * 0.05 / runs) ** 0.5
    assert hits["percentile"] / runs == pytest.approx(0.95, abs=tolerance)
    assert hits["bca"] / runs == pytest.approx(0.95, abs=tolerance)
    assert hits["frames"] / runs < 0.8, "frames as independent samples claim too much"


def test_bca_of_a_mean_equals_scipy() -> None:
    values = np.random.default_rng(3).lognormal(0, 1, 40)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="BCa", rng=np.random.default_rng(4), vectorized=True
    )
    rows = np.stack([values, np.ones(40)], 1)
    left_out = jackknife(rows, share)
    assert left_out == pytest.approx([np.delete(values, i).mean() for i in range(40)])
    # On scipy's own draws the two are the same arithmetic.
    same = interval(theirs.bootstrap_distribution, values.mean(), left_out)
    assert same.method == "bca"
    assert (same.low, same.high) == pytest.approx(tuple(theirs.confidence_interval))
    ours = interval(share(bootstrap_weights(40, 20000, 4) @ rows), values.mean(), left_out)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), rel=0.05)
    plain = interval(theirs.bootstrap_distribution, values.mean())
    assert same.low > plain.low and same.high > plain.high, "a skewed mean moves the interval to the right"


def test_bca_of_a_stratified_difference_equals_scipy() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.lognormal(0, 1, 25), rng.exponential(1, 35)

    def gap(x, y, axis=-1):
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    theirs = stats.bootstrap((a, b), gap, n_resamples=2000, method="BCa", rng=rng, vectorized=True)
    left_out = np.asarray(
        [gap(np.delete(a, i), b) for i in range(25)] + [gap(a, np.delete(b, i)) for i in range(35)]
    )
    ours = interval(theirs.bootstrap_distribution, gap(a, b), left_out, ["a"] * 25 + ["b"] * 35)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval))


def test_intervals_fall_back_to_percentiles_where_bca_is_undefined() -> None:
    draws = np.random.default_rng(6).normal(size=500)
    few, many = np.arange(BCA_VIDEOS - 1.0), np.arange(float(BCA_VIDEOS))
    assert interval(draws, 0.0, few).method == "percentile" and interval(draws, 0.0, many).method == "bca"
    assert interval(draws, 0.0, np.ones(30)).method == "percentile", "a jackknife that does not vary"
    assert interval(draws, 99.0, many).method == "percentile", "every draw below the point"
    perfect = interval(np.full(100, 100.0), 100.0, np.full(30, 100.0))
    assert (perfect.low, perfect.high) == (100, 100)
    assert np.isnan(interval(np.full(10, np.nan), 0.0).low)
    holes = np.concatenate([draws, np.full(100, np.nan)])
    assert interval(holes, 0.0) == interval(draws, 0.0)


def test_paired_intervals_are_narrower_than_unpaired_ones_and_p_follows_them() -> None:
    rng = np.random.default_rng(7)
    old = answers(rng, videos=25, frames=20)
    new = old | (rng.random(old.shape) < 0.1)
    weights = bootstrap_weights(25, 1000, seed=1)
    a, b = share(weights @ by_video(old)), share(weights @ by_video(new))
    left_out = (jackknife(by_video(old), share), jackknife(by_video(new), share))
    found = paired_difference(a, b, (old.mean(), new.mean()), left_out)
    assert found.difference == pytest.approx(new.mean() - old.mean()) and found.interval.method == "bca"
    assert 0 < found.interval.low < found.difference < found.interval.high
    assert found.p == pytest.approx(2 / 1001), "no draw at or below 0: twice (0 + 1) of (1000 + 1)"
    other = share(bootstrap_weights(25, 1000, seed=2) @ by_video(new))
    unpaired = interval(other - a, found.difference)
    assert found.interval.high - found.interval.low < (unpaired.high - unpaired.low) / 2
    same = paired_difference(a, a, (0.5, 0.5))
    assert (same.difference, same.interval.low, same.interval.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(StatisticsError, match="same resamplings"):
        paired_difference(a, b[:10], (0.5, 0.5))


def test_p_values_are_uniform_without_a_difference() -> None:
    rng, boots, flips = np.random.default_rng(8), [], []
    for seed in range(250):
        # Two models of equal skill; easy videos are easy for both.
        easy = np.clip(rng.normal(0.5, 0.2, 40), 0, 1)[:, None]
        first, second = (by_video(rng.random((40, 15)) < easy) for _ in range(2))
        weights = bootstrap_weights(40, 500, seed)
        boots.append(bootstrap_p(share(weights @ second) - share(weights @ first)))
        flips.append(sign_flip_p(first, second, share, permutations=500, seed=seed))
    assert stats.kstest(boots, "uniform").pvalue > 0.01
    assert stats.kstest(flips, "uniform").pvalue > 0.01
    assert np.corrcoef(boots, flips)[0, 1] > 0.95
    assert np.mean(np.asarray(boots) < 0.05) < 0.05 + 3.3 * (0.05 * 0.95 / 250) ** 0.5


def test_bootstrap_p_by_hand() -> None:
    assert bootstrap_p(np.asarray([1.0, 2.0, -1.0, 3.0])) == 2 * (1 + 1) / 5
    assert bootstrap_p(np.asarray([1.0, np.nan, 2.0, 3.0])) == 2 * 1 / 4
    assert np.isnan(bootstrap_p(np.asarray([np.nan])))


def test_sign_flips_equal_an_enumeration_and_scipy() -> None:
    rng = np.random.default_rng(9)
    first, second = (by_video(answers(rng, videos=9, frames=7, mean=m)) for m in (0.4, 0.6))
    observed, count = share(second.sum(0)) - share(first.sum(0)), 0
    for flip in itertools.product([False, True], repeat=9):
        a = sum(y if f else x for f, x, y in zip(flip, first, second, strict=True))
        b = sum(x if f else y for f, x, y in zip(flip, first, second, strict=True))
        count += abs(share(b) - share(a)) >= abs(observed) - 1e-12
    assert sign_flip_p(first, second, share) == count / 2**9
    # scipy's paired permutation test exchanges the models within a video too.
    theirs = stats.permutation_test(
        (second[:, 0], first[:, 0]),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
    )
    assert sign_flip_p(first, second, share) == pytest.approx(theirs.pvalue)
    sampled = sign_flip_p(first, second, share, permutations=500, seed=1)
    assert sampled == pytest.approx(theirs.pvalue, abs=0.06) and sampled * 501 == pytest.approx(
        round(sampled * 501)
    )
    assert sign_flip_p(first, first, share) == 1
    with pytest.raises(StatisticsError, match="same videos"):
        sign_flip_p(first, second[:3], share)


def test_holm_by_hand() -> None:
    # Holm's steps: 4 * .005, 3 * .01, then 2 * .03 and 1 * .04 raised to the 0.06 before it.
    found = holm({"a": 0.04, "b": 0.005, "c": 0.03, "d": 0.01, "none": float("nan")})
    assert list(found) == ["a", "b", "c", "d", "none"] and np.isnan(found.pop("none"))
    assert found == pytest.approx({"a": 0.06, "b": 0.02, "c": 0.06, "d": 0.03})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_equals_its_closed_form_on_random_p_values() -> None:
    p = dict(enumerate(np.random.default_rng(10).random(12) ** 3))
    found = holm({str(k): v for k, v in p.items()})
    order = sorted(p, key=p.__getitem__)
    for i, k in enumerate(order):
        closed = max(min(1, (12 - j) * p[order[j]]) for j in range(i + 1))
        assert found[str(k)] == pytest.approx(closed)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(76, 87, 78.8, 92.8), (71, 87, 72.2, 88.4)], ids=["Surg-R1", "Llama-4"]
)
def test_wilson_intervals_of_the_papers_table_10(right, n, low, high) -> None:
    found = wilson(right, n)
    assert (round(found.low, 1), round(found.high, 1), found.method) == (low, high, "wilson")


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 1), (3, 29), (937, 937), (27, 937)])
def test_wilson_equals_scipy(right, n) -> None:
    for level in (0.9, 0.95):
        theirs = stats.binomtest(right, n).proportion_ci(level, method="wilson")
        ours = wilson(right, n, level)
        assert (ours.low / 100, ours.high / 100) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    with pytest.raises(StatisticsError, match="6 of 5"):
        wilson(6, 5)


def test_frames_without_video_ids_are_stamped_and_warned_about() -> None:
    assert clusters(["v1", "v1", "v2"]).labels == ("v1", "v1", "v2")
    assert clusters(["v1", "v1"]).stamp == "videos"
    found = clusters(["v1", "", "v1"])
    assert found.stamp == "iid_frames" and len(set(found.labels)) == 3
    assert "too narrow" in interval_warning(900, "iid_frames")
    assert interval_warning(MIN_VIDEOS) is None
    assert interval_warning(MIN_VIDEOS - 1).startswith("5 videos: the cluster interval is unreliable")
    assert interval_warning(1).startswith("1 video:")


def test_calibration_by_hand() -> None:
    confidence = [0.0, 0.1, 0.15, 0.95, 1.0, 0.95]
    found = calibration(confidence, [False, True, False, True, True, False])
    # Bin (0, 0.1] with 0: means 0.05 and 1/2; (0.1, 0.2]: 0.15 and 0; (0.9, 1]: 2.9 / 3 and 2/3.
    assert [b.n for b in found.bins] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.ece == pytest.approx((2 * 0.45 + 1 * 0.15 + 3 * 0.3) / 6)
    assert (found.bins[0].confidence, found.bins[0].accuracy) == pytest.approx((0.05, 0.5))
    assert np.isnan(found.bins[4].accuracy) and found.n == 6
    assert found.brier == pytest.approx((0 + 0.81 + 0.0225 + 0.0025 + 0 + 0.9025) / 6)
    one = calibration([0.25, 0.75], [True, True], bins=1)
    assert one.ece == pytest.approx(0.5)
    with pytest.raises(CalibrationError, match="shares from 0 to 1"):
        calibration([80.0], [True])
    with pytest.raises(CalibrationError, match="1 confidences for 2"):
        calibration([0.5], [True, False])


def test_calibrated_answers_have_no_error_and_brier_equals_scikit_learn() -> None:
    rng = np.random.default_rng(11)
    confidence = rng.random(20000)
    correct = rng.random(20000) < confidence
    found = calibration(confidence, correct)
    assert found.ece < 0.015 and found.brier == pytest.approx(brier_score_loss(correct, confidence))
    assert found.brier == pytest.approx(1 / 6, abs=0.01), "E[p (1 - p)] of uniform confidences"
    certain = calibration(np.full(20000, 0.9), correct)
    assert certain.ece == pytest.approx(0.9 - correct.mean())


def test_agreement_counts_unread_samples_against_the_majority() -> None:
    assert agreement(["a", "b", "a", None]) == ("a", 0.5)
    assert agreement(["b", "a"]) == ("b", 0.5)
    assert agreement([None, None, "a"]) == ("a", pytest.approx(1 / 3))
    assert agreement([None, None]) == (None, 0.0)
    with pytest.raises(CalibrationError):
        agreement([])
