"""Conversations in the formats of other trainers. Pictures are named by absolute path; boxes in prompts and
answers are in their pixels, as Qwen2.5-VL expects.

- "llama-factory": `<name>.jsonl` in its sharegpt form with role and content tags, and `dataset_info.json`
  that names columns and tags (LLaMA-Factory, data/README.md).
- "ms-swift": `<name>.jsonl` with `messages` and `images` (ms-swift, Customization/Custom-dataset).
- "verl": `<name>.parquet` with `data_source`, `prompt`, `images`, `ability`, `reward_model` and `extra_info`
  (verl, preparation/prepare_data); prompts alone, for reinforcement learning.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from surgr1.synthesis.conversations import Conversation, in_batches

Format = Literal["llama-factory", "ms-swift", "verl"]
FORMATS: tuple[Format, ...] = get_args(Format)
_IMAGE = "<image>"
"""Where the picture stands in the text, in all three."""
_ROWS = 4096

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_VERL = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", _MESSAGES),
        ("images", pa.list_(pa.struct([("image", pa.string())]))),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [
                    ("split", pa.string()),
                    ("index", pa.int64()),
                    ("sample_id", pa.string()),
                    ("video", pa.string()),
                    ("policy", pa.string()),
                    ("options", pa.list_(pa.string())),
                ]
            ),
        ),
    ]
)


def export(conversations: Iterable[Conversation], out: Path, name: str, to: Format) -> int:
    """Write `conversations` into the folder `out` for another trainer; returns how many. `name` is the data
    set's name there and "train", "test", ... its split in verl's rows.
    """
    out.mkdir(parents=True, exist_ok=True)
    if to == "verl":
        return _parquet(conversations, out / f"{name}.parquet", name)
    written = _json_lines(conversations, out / f"{name}.jsonl", to)
    if to == "llama-factory":
        _register(out / "dataset_info.json", name)
    return written


def _question(conversation: Conversation) -> dict[str, str]:
    # A label file's own "<image>" would ask for a second picture.
    return {"role": "user", "content": _IMAGE + conversation.prompt.replace(_IMAGE, "")}


def _json_lines(conversations: Iterable[Conversation], path: Path, to: Format) -> int:
    written = 0
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for c in conversations:
            row: dict[str, Any] = {
                "messages": [_question(c), {"role": "assistant", "content": c.completion}],
                "images": [str(Path(c.image).resolve())],
            }
            if to == "llama-factory":
                row |= {"sample_id": c.sample_id, "policy": c.policy}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    part.replace(path)
    return written


def _register(path: Path, name: str) -> None:
    """Add the data set to LLaMA-Factory's list of the folder."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known[name] = {
        "file_name": f"{name}.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    path.write_text(json.dumps(known, indent=1), encoding="utf-8")


def _parquet(conversations: Iterable[Conversation], path: Path, split: str) -> int:
    written = 0
    part = path.with_suffix(".part")
    with pq.ParquetWriter(part, _VERL, compression="zstd") as writer:
        for batch in in_batches(conversations, _ROWS):
            rows = [
                {
                    "data_source": f"surgr1/{c.dataset}",
                    "prompt": [_question(c)],
                    "images": [{"image": str(Path(c.image).resolve())}],
                    "ability": c.task,
                    "reward_model": {"style": "rule", "ground_truth": c.answer},
                    "extra_info": {
                        "split": split,
                        "index": written + k,
                        "sample_id": c.sample_id,
                        "video": c.video,
                        "policy": c.policy,
                        "options": list(c.options),
                    },
                }
                for k, c in enumerate(batch)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=_VERL))
            written += len(rows)
    part.replace(path)
    return written
