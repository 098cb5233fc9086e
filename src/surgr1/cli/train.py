"""`surgr1 train …`: one stage of a recipe whose earlier stages are finished."""

import typer

from surgr1.cli.app import Data, Out, RecipeFile, console, open_recipe

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


def _stage(recipe: RecipeFile, out: Out, data: Data, name: str) -> None:
    from surgr1.pipeline.run import execute

    loaded, folder = open_recipe(recipe, out, data)
    execute(loaded, folder, console, only=name)
