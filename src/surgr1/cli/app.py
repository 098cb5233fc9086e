"""The command line. Errors a user can mend are printed without a traceback and end with exit status 1, Ctrl-C
with 130; training that SIGTERM stopped in order ends with 0.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from surgr1 import __version__
from surgr1.ontology.errors import Stopped, SurgR1Error

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Surg-R1 (open): surgical vision-language reasoning. Research software, not for clinical use.",
)
console = Console()

RecipeFile = Annotated[Path, typer.Argument(help="Recipe, e.g. recipes/demo.yaml")]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder (default: runs/<name of the recipe>)")]
Data = Annotated[
    list[str] | None, typer.Option("--data", help="Folder of a dataset, DATASET=PATH; repeatable")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a key of the recipe, KEY.KEY=VALUE (YAML); repeatable"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs")]


def dataset_folders(data: list[str] | None) -> dict[str, Path]:
    """The folders of `--data DATASET=PATH` options."""
    from surgr1.pipeline.recipe import RecipeError

    folders: dict[str, Path] = {}
    for entry in data or []:
        name, separator, folder = entry.partition("=")
        if not separator or not folder:
            raise RecipeError(f"--data {entry}: expected DATASET=PATH, e.g. --data cholect50=/data/CholecT50")
        folders[name] = Path(folder)
    return folders


def open_recipe(
    path: Path, out: Path | None, data: list[str] | None, settings: list[str] | None
) -> tuple[Any, Path]:
    """The recipe and its run folder."""
    import yaml

    from surgr1.pipeline.recipe import load_recipe

    folders = dataset_folders(data)
    if out is None:
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            out = Path("runs") / str(raw["name"])
        except (OSError, yaml.YAMLError, KeyError, TypeError):
            # load_recipe says precisely what is wrong with the file.
            out = Path("runs") / path.stem
    # Absolute, so that the paths a run records hold wherever it is looked at from.
    out = out.resolve()
    return load_recipe(path, run_dir=out, data=folders, settings=settings or []), out


def show(value: Any, as_json: bool) -> None:
    """Print for a person, or as JSON for a program."""
    if as_json:
        print(json.dumps(value, indent=1, default=str))
    else:
        console.print(value)


@app.command()
def run(recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None) -> None:
    """Run a whole recipe: data, four stages, SurgBench, report. Finished stages are skipped, killed ones
    continued.

    Example: surgr1 run recipes/demo.yaml
    """
    from surgr1.pipeline.run import execute

    loaded, folder = open_recipe(recipe, out, data, settings)
    execute(loaded, folder, console)
    console.print(f"report: [bold]{folder / 'report.html'}[/]")


@app.command()
def refine(recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None) -> None:
    """Run stage 4 of a recipe whose earlier stages are finished.

    Example: surgr1 refine recipes/demo.yaml
    """
    from surgr1.pipeline.run import execute

    loaded, folder = open_recipe(recipe, out, data, settings)
    execute(loaded, folder, console, only="refine")


def main() -> None:
    """Entry point."""
    # Progress bars of libraries would break ours.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from surgr1.cli import bench, cot, data, tools, train

    app.add_typer(data.app, name="data")
    app.add_typer(cot.app, name="cot")
    app.add_typer(train.app, name="train")
    app.add_typer(bench.app, name="bench")
    app.registered_commands += tools.app.registered_commands
    try:
        app()
    except Stopped as reason:
        print(reason, file=sys.stderr)
    except SurgR1Error as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        print(
            f"error: {error.filename or ''}: {error.strerror or error}; free space or mend the path and run"
            " again",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except SystemExit as stop:
        # typer turns Ctrl-C into this status without a word.
        if stop.code == 130:
            print("stopped; run the same command again to continue", file=sys.stderr)
        raise


@app.callback(invoke_without_command=True)
def version(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version")] = False,
) -> None:
    """Surg-R1 (open). Research software, not a medical device, not for clinical use."""
    if show_version:
        print(__version__)
        raise typer.Exit
