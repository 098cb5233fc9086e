"""Load a model folder and its processor: local files, safetensors only, no remote code."""

import gc
import hashlib
from pathlib import Path
from typing import Any

from surgr1.ontology.errors import SurgR1Error


class ModelError(SurgR1Error):
    """A model folder that is missing, incomplete or damaged."""


def best_device() -> str:
    """Where a model answers: the accelerator if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def release_memory() -> None:
    """Give a device back what models of this process no longer need: the next one may be vLLM, which takes
    its share at once.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_processor(model_dir: Path) -> Any:
    """The folder's Qwen2.5-VL processor, padding on the left (3-D rotary positions and generation both need
    it).
    """
    from transformers import Qwen2_5_VLProcessor

    try:
        processor = Qwen2_5_VLProcessor.from_pretrained(model_dir, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{model_dir}: no usable processor: {error}") from error
    processor.tokenizer.padding_side = "left"
    return processor


def load_model(
    model_dir: Path,
    *,
    adapter_dir: Path | None = None,
    trainable: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
) -> Any:
    """The model, with a LoRA adapter on top if one is given (`trainable` keeps it open for training)."""
    import torch
    from peft import PeftModel
    from safetensors import SafetensorError
    from transformers import Qwen2_5_VLForConditionalGeneration

    if not any(Path(model_dir).glob("*.safetensors")):
        raise ModelError(f"{model_dir}: no *.safetensors weights; other formats are refused")
    try:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            model_dir,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
        if adapter_dir is not None:
            model = PeftModel.from_pretrained(model, adapter_dir, is_trainable=trainable)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{adapter_dir or model_dir}: cannot be loaded: {error}") from error
    return model.to(device)


def adapter_of(run: Path, stage: str) -> Path:
    """The adapter a stage of a run left. Raises ModelError."""
    found = run / stage / "adapter"
    if not (found / "adapter_config.json").is_file():
        raise ModelError(f"{run}: no trained {stage} adapter; finish the run first or give --stage")
    return found


def fingerprint(*folders: Path | None) -> str:
    """Hash of the weight files of a base and an adapter: names the policy in ledgers."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(Path(folder).glob("*.safetensors")) if folder else ():
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
