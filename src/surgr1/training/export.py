"""An adapter merged into its base as a plain Hugging Face folder, checked by its logits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgr1.training.loading import ModelError, load_model, load_processor
from surgr1.training.stage import Dtype, save_whole


@dataclass(frozen=True)
class ExportReport:
    """`relative_difference`: ||merged - adapter|| / ||adapter|| of the logits on a probe picture and
    question; `same_top1`: share of positions with the same most likely token.
    """

    folder: Path
    dtype: str
    relative_difference: float
    same_top1: float


def export_merged(
    model_dir: Path, adapter_dir: Path, out: Path, *, dtype: Dtype = "bfloat16"
) -> ExportReport:
    """Write `out` (safetensors, processor) and compare it, read back, with base + adapter in float32.

    The merge is done in float32 and rounded once: merging in bfloat16 would round every layer's sum of base
    and update before it is stored. Raises ModelError when a float32 export differs by more than 1e-4, or a
    bfloat16 one by more than 5 %, and leaves nothing at `out` then.
    """
    import torch

    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out}: not empty; export into a new folder")
    processor = load_processor(model_dir)
    model = load_model(model_dir, adapter_dir=adapter_dir)
    wanted = _probe(model, processor)
    merged = model.merge_and_unload().to(getattr(torch, dtype))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".unchecked")
    save_whole(merged, part, processor)
    del model, merged
    found = _probe(load_model(part), processor)
    difference = float((found - wanted).norm() / wanted.norm())
    allowed = 1e-4 if dtype == "float32" else 0.05
    if not difference <= allowed:
        raise ModelError(
            f"{part}: its logits differ from base + adapter by {difference:.1e} of their norm (allowed"
            f" {allowed:.0e}); it was not moved to {out}"
        )
    part.replace(out)
    same = float((found.argmax(-1) == wanted.argmax(-1)).float().mean())
    return ExportReport(out, dtype, difference, same)


def _probe(model: Any, processor: Any) -> Any:
    """Logits (T, V) on a picture of colour ramps and a question."""
    import numpy as np
    import torch
    from PIL import Image

    from surgr1.engines.messages import chat_text

    ramp = np.linspace(0, 255, 168, dtype=np.uint8)
    picture = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), axis=-1)
    text = chat_text("Which surgical phase is being performed?", processor)
    inputs = processor(text=[text], images=[Image.fromarray(picture)], return_tensors="pt")
    with torch.inference_mode():
        return model.eval()(**inputs).logits[0].float()
