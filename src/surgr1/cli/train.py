"""`surgr1 train …`: one stage of a recipe whose earlier stages are finished; the export of an adapter."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from surgr1.cli.app import Data, Json, Out, RecipeFile, Set, console, open_recipe, show

app = typer.Typer(no_args_is_help=True, help="Train one stage of a recipe; `surgr1 run` runs them all.")


@app.command()
def sft(recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None) -> None:
    """Stage 1, supervised fine-tuning on VQA labels (for a nano recipe the base must be finished).

    Example: surgr1 train sft recipes/demo.yaml
    """
    _stage(recipe, out, data, settings, "sft")


@app.command()
def coldstart(recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None) -> None:
    """Stage 2, cold start on three-level traces.

    Example: surgr1 train coldstart recipes/demo.yaml
    """
    _stage(recipe, out, data, settings, "coldstart")


@app.command()
def grpo(
    recipe: RecipeFile,
    out: Out = None,
    data: Data = None,
    settings: Set = None,
    profile: Annotated[bool, typer.Option("--profile", help="Print where a step's time went")] = False,
) -> None:
    """Stage 3, GRPO with entropy-weighted tokens.

    Example: surgr1 train grpo recipes/demo.yaml --profile
    """
    from rich.table import Table

    from surgr1.bench.report import read_log
    from surgr1.training.page import phases

    folder = _stage(recipe, out, data, settings, "grpo")
    if profile:
        spent = phases(read_log(folder / "grpo" / "log.jsonl"))
        table = Table("phase of a step", "seconds", "share")
        for name, seconds in spent.items():
            table.add_row(name, f"{seconds:.3f}", f"{seconds / sum(spent.values()):.0%}")
        console.print(table)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not")] = Path("runs/demo"),
) -> None:
    """Write RUN/training.html: curves, time per phase, completions with their tokens shaded by w_t.

    Example: surgr1 train report runs/demo
    """
    from surgr1.pipeline.stages import training_page

    console.print(f"training: [bold]{training_page(run)}[/]")


@app.command()
def plan(
    recipe: RecipeFile,
    out: Out = None,
    data: Data = None,
    settings: Set = None,
    tflops: Annotated[
        float | None,
        typer.Option(help="Sustained TFLOP/s of the device (default: 40 % of a matrix product's here)"),
    ] = None,
    as_json: Json = False,
) -> None:
    """What the training stages will take: samples, tokens, steps, memory, time. The data must be built.

    Example: surgr1 train plan recipes/demo.yaml --json
    """
    from rich.table import Table

    from surgr1.pipeline.estimate import estimate, measured_flops
    from surgr1.pipeline.stages import Run

    loaded, folder = open_recipe(recipe, out, data, settings)
    speed = tflops * 1e12 if tflops else 0.4 * measured_flops()
    found = estimate(Run(loaded, folder, console), flops_per_second=speed)
    if as_json:
        show({"flops_per_second": speed, "stages": [asdict(e) for e in found]}, True)
        return
    table = Table("stage", "samples", "steps", "per step", "epochs", "tokens (median / most)", "GiB", "hours")
    for e in found:
        table.add_row(
            e.stage,
            str(e.samples),
            str(e.steps),
            str(e.samples_per_step),
            f"{e.epochs:.2f}",
            f"{e.tokens['median']} / {e.tokens['most']}",
            f"{e.memory_gib['total']:.2f}",
            f"{e.update_hours:.2f}",
        )
    console.print(table)
    console.print(f"one device at {speed / 1e12:.2f} TFLOP/s; hours of updates alone, without rollouts")


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="New folder for the merged model")],
    run: Annotated[Path, typer.Option(help="A run folder")] = Path("runs/demo"),
    stage: Annotated[str, typer.Option(help="Whose adapter: sft, coldstart, grpo or refine")] = "refine",
    base: Annotated[Path | None, typer.Option(help="The base model (default: the one the run built)")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights")] = "bfloat16",
    as_json: Json = False,
) -> None:
    """Merge a stage's adapter into its base: a plain Hugging Face folder, checked by its logits.

    Example: surgr1 train export /tmp/merged --run runs/demo --stage refine
    """
    from surgr1.training.export import export_merged
    from surgr1.training.loading import adapter_of

    report = export_merged(base or run / "base" / "model", adapter_of(run, stage), out, dtype=dtype)
    if as_json:
        show(asdict(report), True)
        return
    console.print(
        f"{report.folder}: {report.dtype}, logits differ by {report.relative_difference:.1e} of their norm,"
        f" {report.same_top1:.1%} of the most likely tokens are the same"
    )


def _stage(recipe: RecipeFile, out: Out, data: Data, settings: Set, name: str) -> Path:
    from surgr1.pipeline.run import execute

    loaded, folder = open_recipe(recipe, out, data, settings)
    execute(loaded, folder, console, only=name)
    return folder
