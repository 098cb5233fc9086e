"""`surgr1 sim`, `surgr1 predict`, `surgr1 doctor`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from surgr1.cli.app import Data, Json, Out, Set, console, open_recipe, show

app = typer.Typer()


@app.command()
def sim(
    out: Annotated[Path, typer.Argument(help="Folder for the simulated datasets")],
    size: Annotated[Literal["smoke", "demo"], typer.Option(help="How much")] = "smoke",
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Write a labelled sheet of frames (PNG) instead of datasets")
    ] = None,
) -> None:
    """Simulate operations and write them as native dataset trees, or a contact sheet to look at.

    Example: surgr1 sim /tmp/sim --contact-sheet /tmp/sheet.png
    """
    from surgr1.pipeline.progress import progress_bar
    from surgr1.simulator.contact_sheet import contact_sheet as draw
    from surgr1.simulator.world import default_plan, simulate

    if contact_sheet is not None:
        console.print(f"contact sheet: {draw(contact_sheet)}")
        return
    with progress_bar(console, "simulating operations") as advance:
        report = simulate(out, default_plan(size), progress=advance)
    console.print(f"{report.frames} frames in {out}, {report.frames_per_second:.1f} frames/s")


@app.command()
def predict(
    image: Annotated[Path, typer.Argument(help="A picture")],
    run: Annotated[Path, typer.Option(help="A finished run folder")] = Path("runs/demo"),
    question: Annotated[str, typer.Option(help="What to ask")] = "Which surgical phase is being performed?",
    task: Annotated[
        str, typer.Option(help="Task, decides how deep the reasoning goes")
    ] = "phase_recognition",
    stage: Annotated[str, typer.Option(help="Whose adapter: coldstart, grpo or refine")] = "refine",
    base: Annotated[Path | None, typer.Option(help="The base model (default: the one the run built)")] = None,
    as_json: Json = False,
) -> None:
    """Ask a trained model about one picture. Not for clinical use.

    Example: surgr1 predict frame.png --run runs/demo --question "Which tool does what to which tissue?"
    --task triplet_extraction
    """
    from surgr1.corpora.grid import prepare_image
    from surgr1.engines.transformers_engine import TransformersEngine
    from surgr1.engines.types import Request, Sampling
    from surgr1.ontology.errors import SurgR1Error
    from surgr1.ontology.tasks import Task
    from surgr1.reasoning.prompt import build_prompt
    from surgr1.reasoning.trace import parse
    from surgr1.training.loading import adapter_of, best_device, fingerprint, load_model, load_processor

    if task not in set(Task):
        raise SurgR1Error(f"unknown task {task!r}; one of: {', '.join(Task)}")
    base = base or run / "base" / "model"
    adapter = adapter_of(run, stage)
    processor = load_processor(base)
    budget = processor.image_processor.size
    area = 28 * 28
    low, high = budget["shortest_edge"] // area, budget["longest_edge"] // area
    prepared = prepare_image(image, run / "images", min_tokens=low, max_tokens=high)
    model = load_model(base, adapter_dir=adapter, device=best_device())
    engine = TransformersEngine(model, processor, model_id=fingerprint(base, adapter))
    request = Request(
        "one", build_prompt(question, task=Task(task), reasoning=True), (prepared.path,), "local_only"
    )
    _, completions = next(iter(engine.generate([request], Sampling())))
    parsed = parse(completions[0].text, finish_reason=completions[0].finish_reason)
    body: dict[str, Any] = {
        "levels": parsed.levels,
        "answer": parsed.answer,
        "outcome": parsed.outcome,
        "notice": "not for clinical use",
    }
    if as_json:
        show(body, True)
        return
    for level, text in parsed.levels.items():
        console.print(f"[bold]Level {level}[/] {text}")
    console.print(f"[bold]Answer[/] {parsed.answer}  [dim](research software, not for clinical use)[/]")


@app.command()
def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe: also check what it reads and asks")] = None,
    out: Out = None,
    data: Data = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Check versions, devices, memory, disk and data, and train one step. Exits 1 when something is off.

    Example: surgr1 doctor recipes/demo.yaml --json
    """
    from surgr1.pipeline.doctor import examine

    loaded, folder = open_recipe(recipe, out, data, settings) if recipe else (None, Path.cwd())
    found = examine(loaded, folder)
    show(found, as_json)
    if found["problems"]:
        raise typer.Exit(1)
