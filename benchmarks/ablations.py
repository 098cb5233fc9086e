"""Stage 3 without entropy weighting and the road without stage 4, against the full method, over seeds.

    python benchmarks/ablations.py recipes/demo.yaml runs/demo [--seeds 3] [--out ablations.json]

Starts from a finished run: data, base and cold start are shared, then every seed draws its own prompts and
rollouts for stage 3 with w_t, stage 3 without, and stage 4 after the weighted stage 3. All arms answer the
run's own frozen evaluation list. Prints the public Arena per arm and seed, and the mean paired differences
with a t interval over the seeds. Killed, it continues: finished arms are read from RUN/ablations.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

from rich.console import Console
from scipy.stats import t as student

from surgr1.pipeline import stages
from surgr1.pipeline.recipe import Recipe, load_recipe
from surgr1.pipeline.stages import Run

ARMS = ("grpo with w_t", "grpo without w_t", "grpo with w_t, refinement")


def reseeded(recipe: Recipe, seed: int, *, weighted: bool) -> Recipe:
    """The recipe with another seed in stages 3 and 4, with or without entropy weighting."""
    assert recipe.grpo is not None and recipe.refine is not None
    grpo = recipe.grpo.stage.model_copy(update={"seed": seed, "entropy_weighting": weighted})
    refine = recipe.refine.stage.model_copy(update={"seed": seed})
    return recipe.model_copy(
        update={
            "seed": seed,
            "grpo": recipe.grpo.model_copy(update={"stage": grpo}),
            "refine": recipe.refine.model_copy(update={"stage": refine}),
        }
    )


def folder_of(run: Path, seed: int, arm: str) -> Path:
    """A run folder that shares everything before stage 3 with `run`."""
    folder = run / "ablations" / f"seed-{seed}-{arm}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("data", "images", "base", "sft", "coldstart"):
        link = folder / name
        if not link.exists():
            link.symlink_to(run / name, target_is_directory=True)
    return folder


def arena(recipe: Recipe, folder: Path, console: Console, stage: str) -> float:
    """The public Arena Score of a stage on the run's evaluation list (which depends on the recipe's seed)."""
    path = folder / "bench" / stage / "scores.json"
    if not path.is_file():
        public = tuple(s for s in recipe.sources if s.role != "external")
        stages.bench(Run(recipe.model_copy(update={"sources": public}), folder, console), stage)
    return float(json.loads(path.read_text(encoding="utf-8"))["arena"]["public"]["value"])


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % t interval."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, math.nan, math.nan
    half = student.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    return mean, mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("ablations.json"))
    args = parser.parse_args()
    run = args.run.resolve()
    recipe = load_recipe(args.recipe, run_dir=run)
    console = Console(stderr=True)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for seed in range(1, args.seeds + 1):
        for name, weighted in (("weighted", True), ("unweighted", False)):
            folder = folder_of(run, seed, name)
            work = Run(reseeded(recipe, seed, weighted=weighted), folder, console)
            if not (folder / "grpo" / "adapter" / "adapter_config.json").is_file():
                stages.grpo(work)
            found[ARMS[0 if weighted else 1]].append(arena(recipe, folder, console, "grpo"))
            if weighted:
                adapter = work.adapter_of("refine")
                assert adapter is not None
                if not (adapter / "adapter_config.json").is_file():
                    stages.refine(work)
                found[ARMS[2]].append(arena(recipe, folder, console, "refine"))
    cold = arena(recipe, run, console, "coldstart")
    pairs = {
        "grpo with w_t - cold start": [x - cold for x in found[ARMS[0]]],
        "with w_t - without w_t": [a - b for a, b in zip(found[ARMS[0]], found[ARMS[1]], strict=True)],
        "refinement - none": [a - b for a, b in zip(found[ARMS[2]], found[ARMS[0]], strict=True)],
    }
    print(f"public Arena Score, simulated test videos; cold start {cold:.1f}")
    for arm, values in found.items():
        print(f"{arm:28} {'  '.join(f'{v:5.1f}' for v in values)}   mean {statistics.mean(values):.1f}")
    for pair, differences in pairs.items():
        mean, low, high = interval(differences)
        each = "  ".join(f"{d:+5.1f}" for d in differences)
        print(f"{pair:28} {each}   mean {mean:+.1f} [{low:+.1f}, {high:+.1f}]")
    args.out.write_text(json.dumps({"cold start": cold, "arms": found, "differences": pairs}, indent=1))


if __name__ == "__main__":
    main()
