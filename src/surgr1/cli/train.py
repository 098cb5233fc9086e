"""`surgr1 train …`: one stage of a recipe whose earlier stages are finished; the export of an adapter."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from surgr1.cli.app import Data, Json, Out, RecipeFile, console, open_recipe, show

app = typer.Typer(no_args_is_help=True, help="Train one stage of a recipe; `surgr1 run` runs them all.")


@app.command()
def sft(recipe: RecipeFile, out: Out = None, data: Data = None) -> None:
    """Stage 1, supervised fine-tuning on VQA labels (for a nano recipe the base must be finished).

    Example: surgr1 train sft recipes/demo.yaml
    """
    _stage(recipe, out, data, "sft")


@app.command()
def coldstart(recipe: RecipeFile, out: Out = None, data: Data = None) -> None:
    """Stage 2, cold start on three-level traces.

    Example: surgr1 train coldstart recipes/demo.yaml
    """
    _stage(recipe, out, data, "coldstart")


@app.command()
def grpo(recipe: RecipeFile, out: Out = None, data: Data = None) -> None:
    """Stage 3, GRPO with entropy-weighted tokens.

    Example: surgr1 train grpo recipes/demo.yaml
    """
    _stage(recipe, out, data, "grpo")


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
    from surgr1.training.loading import newest_adapter

    report = export_merged(base or run / "base" / "model", newest_adapter(run, stage), out, dtype=dtype)
    if as_json:
        show(asdict(report), True)
        return
    console.print(
        f"{report.folder}: {report.dtype}, logits differ by {report.relative_difference:.1e} of their norm,"
        f" {report.same_top1:.1%} of the most likely tokens are the same"
    )


def _stage(recipe: RecipeFile, out: Out, data: Data, name: str) -> None:
    from surgr1.pipeline.run import execute

    loaded, folder = open_recipe(recipe, out, data)
    execute(loaded, folder, console, only=name)
