"""The ledger, and how local engines render a request."""

import os
import sqlite3

import pytest
import torch
from PIL import Image

from surgr1.engines.ledger import Ledger, LedgerEngine, LedgerError, request_key
from surgr1.engines.messages import rendered
from surgr1.engines.transformers_engine import TransformersEngine
from surgr1.engines.types import Completion, Request, Sampling
from surgr1.training.loading import load_model, load_processor
from surgr1.training.nano import NanoConfig, build_nano


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (28, 28)).save(path)
    return path


class Counting:
    """An engine that counts and fails on demand."""

    name, model = "counting", "m"

    def __init__(self, fail: bool = False):
        self.asked, self.fail = 0, fail
        self.ranges: list[tuple[int, int]] = []

    def generate(self, requests, sampling):
        for request in requests:
            self.asked += 1
            self.ranges.append((sampling.first, sampling.n))
            reason = "error" if self.fail else "stop"
            yield (
                request,
                [
                    Completion(
                        f"{request.request_id}-{k}",
                        reason,
                        1,
                        1,
                        0.0,
                        1,
                        "counting",
                        "m",
                        "no luck" * self.fail,
                    )
                    for k in range(sampling.first, sampling.first + sampling.n)
                ],
            )


def test_the_ledger_never_asks_twice_and_never_keeps_a_failure(tmp_path, picture) -> None:
    requests = [Request(str(i), f"q{i}", (picture,), "public") for i in range(3)]
    path = tmp_path / "ledger.sqlite"
    broken = Counting(fail=True)
    list(LedgerEngine(broken, Ledger(path)).generate(requests, Sampling(n=2)))
    good = Counting()
    first = {r.request_id: c for r, c in LedgerEngine(good, Ledger(path)).generate(requests, Sampling(n=2))}
    again = {r.request_id: c for r, c in LedgerEngine(good, Ledger(path)).generate(requests, Sampling(n=2))}
    assert good.asked == 3 and first == again and len(first["0"]) == 2
    list(LedgerEngine(good, Ledger(path)).generate(requests[:1], Sampling(n=2, temperature=0.5)))
    assert good.asked == 4, "another temperature is another question"
    more = LedgerEngine(good, Ledger(path)).generate(requests[:1], Sampling(n=1, first=2))
    assert [c.text for _, found in more for c in found] == ["0-2"] and good.asked == 5
    list(LedgerEngine(good, Ledger(path)).generate(requests[:1], Sampling(n=3)))
    assert good.asked == 5, "one by one or together: the same three"
    (_, more), *_ = LedgerEngine(good, Ledger(path)).generate(requests[:1], Sampling(n=5))
    assert [c.text for c in more] == [f"0-{k}" for k in range(5)] and good.asked == 6
    assert good.ranges[-1] == (3, 2), "of five only the last two were missing"


def test_an_answer_that_is_there_stays(tmp_path) -> None:
    """Of three samples the middle one is known: the others are asked with it, which keeps its answer."""
    ledger, request = Ledger(tmp_path / "l.sqlite"), Request("0", "q", (), "public")
    kept = Completion("kept", "stop", 1, 1, 0.0, 1, "counting", "m")
    ledger.put(request_key("m", request, Sampling()), [kept], first=1)
    for _ in range(2):
        ((_, found),) = LedgerEngine(Counting(), ledger).generate([request], Sampling(n=3))
        assert [c.text for c in found] == ["0-0", "kept", "0-2"]


def test_the_key_holds_everything_that_decides_an_answer(tmp_path, picture) -> None:
    other = tmp_path / "b.png"
    Image.new("RGB", (28, 28), "red").save(other)
    base = {"request_id": "1", "prompt": "q", "images": (picture,), "policy": "public"}
    variants = [
        base,
        base | {"prompt": "r"},
        base | {"images": (other,)},
        base | {"images": (picture, picture)},
        base | {"images": ()},
        base | {"system": "s"},
        base | {"prefix": "s"},
        base | {"system": "s", "prefix": "s"},
    ]
    keys = [request_key("m", Request(**v), Sampling()) for v in variants]
    keys += [request_key("n", Request(**base), Sampling())]
    settings = ({"temperature": 1.0}, {"top_p": 0.5}, {"top_k": 2}, {"seed": 1}, {"max_new_tokens": 9})
    keys += [request_key("m", Request(**base), Sampling(**s)) for s in settings]
    assert len(set(keys)) == len(keys)
    same = Request(**base | {"request_id": "2", "policy": "local_only"})
    assert request_key("m", same, Sampling(n=3, first=2)) == keys[0], "the index is not in the key"
    copy = tmp_path / "c.png"
    copy.write_bytes(picture.read_bytes())
    assert request_key("m", Request(**base | {"images": (copy,)}), Sampling()) == keys[0], "content counts"
    picture.write_bytes(other.read_bytes())
    os.utime(picture, ns=(1, 1))
    assert request_key("m", Request(**base), Sampling()) == keys[2], "a picture that changed is another one"


def test_keys_of_ledgers_from_before_prefixes_stay_valid() -> None:
    """The key of this request as version 0.1.0 wrote it."""
    request = Request("1", "Which phase?", (), "public")
    assert request_key("m", request, Sampling()) == (
        "25c76b0a64fb5bf32433588a3c8686d8d8085ce768994cf89cc102f5764580a2"
    )


def test_a_picture_that_is_gone_is_named(tmp_path) -> None:
    request = Request("1", "q", (tmp_path / "gone.png",), "public")
    with pytest.raises(LedgerError, match=r"gone\.png cannot be read"):
        request_key("m", request, Sampling())


def test_failures_are_recorded(tmp_path) -> None:
    path = tmp_path / "l.sqlite"
    ledger = Ledger(path)
    list(LedgerEngine(Counting(fail=True), ledger).generate([Request("0", "q", (), "public")], Sampling(n=2)))
    ledger.close()
    rows = sqlite3.connect(path).execute("SELECT error FROM failures").fetchall()
    assert rows == [("no luck",), ("no luck",)]


def test_leaving_early_ends_the_engines_work(tmp_path) -> None:
    ended = []

    class Watched(Counting):
        def generate(self, requests, sampling):
            try:
                yield from super().generate(requests, sampling)
            finally:
                ended.append(True)

    requests = [Request(str(k), f"q{k}", (), "public") for k in range(3)]
    answers = LedgerEngine(Watched(), Ledger(tmp_path / "l.sqlite")).generate(requests, Sampling())
    next(answers)
    assert not ended
    answers.close()
    assert ended


def test_a_damaged_ledger_is_named(tmp_path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
        Ledger(path)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    config = NanoConfig(vocab_size=420, hidden=48, layers=2, heads=3, kv_heads=1, intermediate=64)
    folder = build_nano(
        tmp_path_factory.mktemp("nano") / "m", ["Which phase?"], config, min_tokens=2, max_tokens=16
    )
    model, processor = load_model(folder), load_processor(folder)
    # It speaks in single printable characters, so that its text reads as the tokens it was made of, and all
    # that stands before decides the next one.
    generator = torch.Generator().manual_seed(0)
    head = torch.zeros_like(model.lm_head.weight)
    spoken = processor.tokenizer.convert_tokens_to_ids(list("BCDFGJKMNQRTVXYZ"))
    head[spoken] = torch.randn(len(spoken), head.shape[1], generator=generator)
    model.lm_head.weight = torch.nn.Parameter(head)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".layers." in name and "weight" in name and "norm" not in name:
                parameter.mul_(8)
    return model, processor


def test_a_request_is_rendered_with_its_system_turn_and_its_beginning(nano, picture) -> None:
    turn = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Which?<|im_end|>\n"
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    begun = "<|im_start|>assistant\n"
    for fields, wanted in (
        ({}, turn + begun),
        ({"system": "Be brief."}, system + turn + begun),
        ({"prefix": "<think>Level 1: a"}, turn + begun + "<think>Level 1: a"),
        ({"system": "Be brief.", "prefix": "x"}, system + turn + begun + "x"),
    ):
        found = rendered(Request("1", "Which?", (picture,), "local_only", **fields), nano[1])
        assert found.text == wanted and found.question == "Which?" and found.policy == "local_only"
        assert (found.system, found.prefix) == (fields.get("system", ""), fields.get("prefix", ""))


def test_a_model_continues_the_beginning_it_is_given(nano, picture) -> None:
    """Greedy: given its own first tokens, it says the rest; given others or a system turn, something else."""
    model, processor = nano
    engine = TransformersEngine(model, processor, model_id="m")

    def say(**fields) -> Completion:
        request = Request("1", "Which phase?", (picture,), "local_only", **fields)
        ((_, (found,)),) = engine.generate([request], Sampling(max_new_tokens=12))
        return found

    whole = say()
    tokens = processor.tokenizer(whole.text, add_special_tokens=False)["input_ids"]
    assert len(tokens) == whole.tokens_out == 12, "a text that reads as the tokens it was made of"
    head, tail = (processor.tokenizer.decode(t) for t in (tokens[:5], tokens[5:]))
    assert processor.tokenizer(head, add_special_tokens=False)["input_ids"] == tokens[:5]
    continued = say(prefix=head)
    assert continued.text.startswith(tail) and continued.tokens_in == whole.tokens_in + 5
    assert len(set(whole.text)) > 2 and say(prefix="phase").text != whole.text
    system = say(system="phase phase phase")
    assert system.tokens_in > whole.tokens_in and system.text != whole.text
