"""`surgr1 cot …`: synthesize and check reasoning."""

from pathlib import Path
from typing import Annotated

import typer

from surgr1.cli.app import Data, Json, Out, RecipeFile, Set, console, open_recipe, show

app = typer.Typer(no_args_is_help=True, help="Three-level reasoning data.")


@app.command("synthesize")
def synthesize_traces(recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None) -> None:
    """Ask a recipe's cold-start teacher for traces (the data must be built). Can be stopped and continued.

    Example: surgr1 cot synthesize recipes/demo.yaml
    """
    from surgr1.pipeline.recipe import RecipeError
    from surgr1.pipeline.stages import Run
    from surgr1.synthesis.synthesize import synthesize

    loaded, folder = open_recipe(recipe, out, data, settings)
    if loaded.coldstart is None:
        raise RecipeError(f"recipe {recipe} has no coldstart section, so no teacher")
    job = Run(loaded, folder, console)
    samples = job.select(loaded.coldstart.select, 2)
    images = job.images(samples)
    with job.bar("teacher's traces") as advance:
        target = folder / "traces"
        report = synthesize(samples, images, job.teacher(loaded.coldstart.teacher), target, progress=advance)
    console.print(f"accepted {report.accepted}, rejected {report.rejected}: {report.accepted_path}")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A Parquet file of conversations")], as_json: Json = False
) -> None:
    """Count the checks a conversation file passed and who wrote it.

    Example: surgr1 cot check runs/demo/coldstart/traces/accepted.parquet --json
    """
    from surgr1.synthesis.synthesize import check_conversations

    show(check_conversations(path), as_json)
