"""`surgr1 data …`: build, show, check, leaks."""

from pathlib import Path
from typing import Annotated, Any

import typer

from surgr1.cli.app import Data, Json, Out, RecipeFile, Set, console, open_recipe, show

app = typer.Typer(no_args_is_help=True, help="Datasets: native trees to samples.")


@app.command()
def build(recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None) -> None:
    """Read a recipe's datasets, check for duplicates and leaks, write Parquet.

    Example: surgr1 data build recipes/nano-cholect50.yaml --data cholect50=/data/CholecT50
    """
    from surgr1.pipeline.run import execute

    loaded, folder = open_recipe(recipe, out, data, settings)
    if loaded.sim_plan is not None:
        execute(loaded, folder, console, only="simulate")
    execute(loaded, folder, console, only="data")


@app.command("show")
def show_samples(
    path: Annotated[Path, typer.Argument(help="A Parquet file of samples")],
    limit: Annotated[int, typer.Option(help="How many samples")] = 5,
    as_json: Json = False,
) -> None:
    """Print samples of a built dataset.

    Example: surgr1 data show runs/demo/data/sim-cholect50.parquet --limit 3
    """
    from itertools import islice

    from surgr1.corpora.schema import read_samples, to_row

    show([to_row(s) for s in islice(read_samples(path), limit)], as_json)


@app.command()
def check(root: Annotated[Path, typer.Argument(help="A dataset folder")], as_json: Json = False) -> None:
    """Recognise a dataset folder, read all its labels and say what is wrong. Exits 1 when it is not whole.

    Example: surgr1 data check /data/CholecT50 --json
    """
    from surgr1.corpora.build import check_root

    found = check_root(root)
    show(found, as_json)
    if not found["complete"]:
        raise typer.Exit(1)


@app.command()
def leaks(
    recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None, as_json: Json = False
) -> None:
    """Which operations a recipe's training and evaluation sets share. Exits 1 when there are any.

    Example: surgr1 data leaks recipes/demo.yaml
    """
    from surgr1.corpora.registry import leak_matrix
    from surgr1.corpora.sources import read_source

    loaded, _ = open_recipe(recipe, out, data, settings)
    roles = {(s.dataset, s.video, s.role) for source in loaded.sources for s in read_source(source)}
    rows: list[dict[str, Any]] = [
        {"train": r.train, "evaluation": r.evaluation, "videos": list(r.videos)}
        for r in leak_matrix(sorted(roles))
    ]
    train = len({(d, v) for d, v, role in roles if role == "train"})
    if as_json:
        show({"training_videos": train, "shared": rows}, as_json)
    else:
        for row in rows:
            console.print(f"{row['train']} and {row['evaluation']} share {', '.join(row['videos'])}")
        console.print(f"{train} training videos, {len(rows)} pairs of sets share operations")
    if rows:
        raise typer.Exit(1)
