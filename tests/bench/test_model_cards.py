"""Shipped model cards against the paper's tables, and cards that are refused with the reason."""

import pytest
import yaml

from surgr1.bench.model_cards import ModelCardError, load_model_card, model_ids
from surgr1.engines.openai_engine import OpenAIEngine

TABLE_4 = """LLaVA-1.5-7B
Phi-4-Multimodal
Mistral-Small-3.1-24B-Instruct-2503
InternVL3-8B
InternVL3-78B
MiniCPM-V-2_6
MiniCPM-O-2_6
Gemma3-27B-it
Skywork-R1V-38B
Llama-4-Scout-17B-16E-Instruct
Qwen2.5-VL-7B-Instruct
Qwen2.5-VL-32B-Instruct
Qwen2.5-VL-72B-Instruct
GPT-4o-2024-0806
Qwen2.5-Max
Gemini-2.0-Flash
Gemini-3.0-Pro-Thinking
GPT-5.1-Thinking
Qwen2.5-VL-7B-Surg-CholecT50
Surg-R1 (Ours)""".splitlines()
"""Names as printed; the first 16 are SurgVLM-Bench's rows."""

LOCAL = {
    "id": "mine",
    "name": "Mine",
    "engine": "transformers",
    "architecture": "qwen2_5_vl",
    "path": "weights",
    "coordinates": "grid",
    "picture": "grid",
    "min_pixels": 3136,
    "max_pixels": 7840,
    "published": {"protocol": "open", "source": "mine"},
    "licence": "mine",
}
REMOTE = {
    "id": "far",
    "name": "Far",
    "engine": "endpoint",
    "api_model": "far-1",
    "base_url": "http://127.0.0.1:1/v1",
    "coordinates": "thousand",
    "picture": "stored",
    "box_instruction": "0 to 1000",
    "published": {"protocol": "open", "source": "mine"},
    "licence": "theirs",
}


def card(tmp_path, body):
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(body))
    return load_model_card(str(path))


def test_every_model_of_the_papers_table_has_a_card() -> None:
    names = {c.name: c for c in map(load_model_card, model_ids())}
    assert set(TABLE_4) <= set(names) and len(TABLE_4) == 20
    for name in TABLE_4[:16]:
        assert names[name].published.protocol == "options", "multiple choice (evaluation.md 0.2)"
    for name in TABLE_4[16:]:
        assert names[name].published.protocol == "unknown"


@pytest.mark.parametrize("name", model_ids())
def test_a_shipped_card_is_coherent_and_says_what_is_from_memory(name) -> None:
    one = load_model_card(name)
    assert one.id == name and one.licence
    assert one.price is None, "prices change; nobody's memory is a price list"
    if one.engine == "endpoint":
        # The client accepts what the card wants left out and added.
        OpenAIEngine(
            one.base_url or "http://127.0.0.1/v1",
            one.api_model,
            omit=one.omit,
            extra_body=one.body(one.thinks(None)),
            limit_field=one.limit_field,
            answers_as=one.answers_as,
        )
        assert one.api_model == one.huggingface or "api_model" in one.recalled


@pytest.mark.parametrize(
    ("name", "coordinates"),
    [
        ("qwen2.5-vl-7b", "grid"),
        ("qwen2-vl-7b", "thousand"),
        ("qwen3-vl-8b", "thousand"),
        ("internvl3-8b", "thousand"),
        ("gemini-3-pro", "thousand_yx"),
    ],
)
def test_frames_of_boxes_are_those_of_the_models(name, coordinates) -> None:
    """evaluation.md B5; Gemini's from its documentation of object detection."""
    assert load_model_card(name).coordinates == coordinates


def test_hospital_data_can_reach_a_card_only_on_this_machine_or_nearby() -> None:
    """Cards of open weights name no address of their own; commercial ones do, and are not local."""
    for one in map(load_model_card, model_ids()):
        if one.engine == "endpoint" and one.huggingface:
            assert not one.base_url and one.base_url_env == "SURGR1_SERVER_URL"


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (LOCAL, {"min_pixels": None}, "needs min_pixels and max_pixels"),
        (LOCAL, {"min_pixels": 8624}, "at most max_pixels 7840"),
        (LOCAL, {"max_pixels": 8000}, "multiples of 28 x 28"),
        (LOCAL, {"architecture": "internvl"}, "never run .*Serve the model apart.* engine: endpoint"),
        (LOCAL, {"architecture": "minicpmv"}, "no trust_remote_code"),
        (LOCAL, {"trust_remote_code": True}, "trust_remote_code: Extra inputs"),
        (
            LOCAL,
            {"coordinates": "stored", "box_instruction": "x"},
            "pixels of the stored picture, but the grid",
        ),
        (LOCAL, {"coordinates": "unit"}, "need a box_instruction"),
        (LOCAL, {"api_model": "x"}, "api_model belongs to an endpoint"),
        (LOCAL, {"thinking": {"default": True}}, "thinking belongs to an endpoint"),
        (LOCAL, {"huggingface": "a/b"}, "path or huggingface, not both"),
        (LOCAL, {"path": None, "adapter": "a"}, "an adapter needs the path"),
        (LOCAL, {"picture": "stored", "min_pixels": None, "max_pixels": None}, "picture must be grid"),
        (LOCAL, {"revision": "abc"}, "revision without huggingface"),
        (LOCAL, {"box_instruction": "{size}"}, "has {size}; known: height, width"),
        (LOCAL, {"native_prompts": {"phase_recognition": "{phase}"}}, "has {phase}"),
        (LOCAL, {"native_prompts": {"cooking": "x"}}, "native_prompts.cooking"),
        (LOCAL, {"recalled": ["weather"]}, "recalled names weather"),
        (LOCAL, {"licence": None}, "licence"),
        (REMOTE, {"base_url": ""}, "needs api_model and base_url or base_url_env"),
        (REMOTE, {"path": "weights"}, "whoever serves the model loads them"),
        (REMOTE, {"coordinates": "grid"}, "pixels of the grid picture, but the stored one is sent"),
        (REMOTE, {"min_pixels": 784, "max_pixels": 784}, "no effect on picture: stored"),
        (REMOTE, {"price": {"input": -1, "output": 1}}, "price.input"),
    ],
)
def test_an_incoherent_card_is_refused_with_the_reason(tmp_path, base, change, message) -> None:
    card(tmp_path, base)
    with pytest.raises(ModelCardError, match=message) as caught:
        card(tmp_path, base | change)
    assert "card.yaml" in str(caught.value)


def test_ones_own_card_is_a_file_and_its_paths_are_relative_to_it(tmp_path) -> None:
    found = card(tmp_path, LOCAL | {"adapter": "adapter"})
    assert (found.path, found.adapter) == (tmp_path / "weights", tmp_path / "adapter")
    assert found.tokens == (4, 10)
    with pytest.raises(ModelCardError, match=r"neither a YAML file nor a shipped card; cards: .*gpt-4o"):
        load_model_card("gpt-99")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ModelCardError, match="expected a mapping, found list"):
        load_model_card(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(ModelCardError, match=r"broken\.yaml: not valid YAML"):
        load_model_card(str(tmp_path / "broken.yaml"))


def test_thinking_is_switched_by_the_cards_own_request_fields(tmp_path) -> None:
    thinking = {"default": True, "enabled": {"effort": "high"}, "disabled": {"effort": "none"}}
    both = card(
        tmp_path, REMOTE | {"thinking": thinking | {"max_new_tokens": 4096}, "extra_body": {"safe": 1}}
    )
    assert both.thinks(None) is True and both.thinks(False) is False
    assert both.body(True) == {"safe": 1, "effort": "high"} and both.body(False) == {
        "safe": 1,
        "effort": "none",
    }
    assert (
        both.sampled(thinks=True).max_new_tokens == 4096 and both.sampled(thinks=False).max_new_tokens == 512
    )
    assert both.sampled(thinks=True, max_new_tokens=9).max_new_tokens == 9
    always = card(tmp_path, REMOTE | {"thinking": thinking | {"disabled": None}})
    with pytest.raises(ModelCardError, match="cannot answer without thinking"):
        always.thinks(False)
    plain = card(tmp_path, REMOTE)
    assert plain.thinks(None) is None
    with pytest.raises(ModelCardError, match="no switch for thinking"):
        plain.thinks(True)


def test_a_run_may_change_the_sampling_unless_the_endpoint_takes_none(tmp_path) -> None:
    found = card(tmp_path, REMOTE | {"sampling": {"temperature": 0.2, "top_p": 0.9}})
    assert found.sampled().temperature == 0.2 and found.sampled(temperature=0.7, seed=3).seed == 3
    fixed = card(tmp_path, REMOTE | {"omit": ["temperature"]})
    with pytest.raises(ModelCardError, match="takes no temperature"):
        fixed.sampled(temperature=0.7)
