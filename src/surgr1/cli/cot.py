"""`surgr1 cot …`: plan, synthesize, check, review and assemble reasoning."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from surgr1.cli.app import Data, Json, Out, RecipeFile, Set, console, open_recipe, show

app = typer.Typer(no_args_is_help=True, help="Three-level reasoning data (Surg-R1-Data).")
RunFolder = Annotated[Path, typer.Argument(help="Run folder, e.g. runs/demo")]


def _say(line: str, **style: Any) -> None:
    """A line for a person, not broken: it may hold a path."""
    console.print(line, highlight=False, soft_wrap=True, **style)


@app.command("synthesize")
def synthesize_traces(
    recipe: RecipeFile,
    out: Out = None,
    data: Data = None,
    settings: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take: calls, tokens, cost, time")
    ] = False,
    latency: Annotated[float, typer.Option(help="Seconds that one answer is expected to take")] = 20.0,
    as_json: Json = False,
) -> None:
    """Ask a recipe's cold-start teacher for traces (the data must be built). Can be stopped and continued.

    Example: surgr1 cot synthesize recipes/demo.yaml --dry-run
    """
    from surgr1.pipeline.reasoning import dry_run as what_it_takes
    from surgr1.pipeline.reasoning import synthesize_coldstart

    loaded, folder = open_recipe(recipe, out, data, settings)
    if dry_run:
        found = what_it_takes(loaded, folder, console, latency_s=latency)
        if as_json:
            show(found, as_json)
        else:
            _tell_estimate(found)
        return
    report = synthesize_coldstart(loaded, folder, console)
    if as_json:
        show(asdict(report), as_json)
    else:
        _say(f"accepted {report.accepted}, rejected {report.rejected}: {report.accepted_path}")
        for check, n in sorted(report.reasons.items(), key=lambda item: -item[1]):
            _say(f"  {check}: {n}")


def _tell_estimate(f: Mapping[str, Any]) -> None:
    """What a dry run has found, for a person."""
    _say(f"{f['teacher']}: {f['samples']} samples, {f['decided']} of them decided, {f['calls']} calls")
    if "tokens_in" not in f:
        return
    _say(
        f"tokens: {f['tokens_in']:,} in, {f['tokens_out_least']:,} to {f['tokens_out_most']:,} out"
        f" ({f['characters_per_token']:g} characters of text a token)"
    )
    _say(f"answered in the ledger already: {f['answered_in_ledger']}")
    if f["cost_most"] is None:
        _say(f"cost: unknown, no price of {f['teacher']} in the table (`prices`)")
    else:
        _say(f"cost: ${f['cost_least']:,.2f} to ${f['cost_most']:,.2f}")
        _say(f"price: {f['price']['source']}")
    if f["seconds"] is not None:
        hours = f["seconds"] / 3600
        _say(f"time: {hours:.1f} hours at {f['latency_s']:g} s an answer and the given limits")
    _say("Every rejected trace is one call more, up to `attempts`.")


@app.command()
def plan(
    recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None, as_json: Json = False
) -> None:
    """Draw which samples go to the teacher, by the recipe's quotas (the data must be built).

    Example: surgr1 cot plan recipes/demo.yaml --set coldstart.quotas=table-3 --set coldstart.select=null
    """
    from surgr1.pipeline.recipe import RecipeError
    from surgr1.pipeline.stages import Run
    from surgr1.synthesis.plan import read_report

    loaded, folder = open_recipe(recipe, out, data, settings)
    if loaded.coldstart is None or loaded.coldstart.quotas is None:
        has = "no coldstart section" if loaded.coldstart is None else "coldstart.select in place of quotas"
        raise RecipeError(
            f"recipe {recipe} has {has}: nothing to plan; give it coldstart.quotas, e.g. table-3"
        )
    place = Run(loaded, folder, console).planned(loaded.coldstart)
    found = read_report(place)
    if as_json:
        show(found.model_dump(mode="json"), as_json)
        return
    for quota in found.quotas:
        _say(
            f"{quota.name}: {quota.taken} of {quota.asked} asked ({quota.pool} there are,"
            f" {quota.duplicates} near-duplicates passed over) {quota.reason}"
        )
    for line in found.not_checked:
        _say(f"not checked: {line}", style="yellow")
    _say(f"{found.taken} samples: {place / 'plan.parquet'}")


@app.command()
def statistics(
    recipe: RecipeFile, out: Out = None, data: Data = None, settings: Set = None, as_json: Json = False
) -> None:
    """Count how often tools, deeds and phases go together in the training labels (the data must be built).

    Example: surgr1 cot statistics recipes/demo.yaml
    """
    from surgr1.pipeline.stages import Run

    loaded, folder = open_recipe(recipe, out, data, settings)
    found = Run(loaded, folder, console).statistics
    if as_json:
        show({name: s.model_dump(mode="json") for name, s in found.items()}, as_json)
        return
    for name, s in found.items():
        simulated = " (simulated)" if s.simulated else ""
        _say(f"{name}{simulated}: {s.frames} frames of {s.videos} operations")
    _say(f"{folder / 'knowledge.json'}")


@app.command()
def knowledge(
    procedure: Annotated[str, typer.Argument(help='E.g. "laparoscopic cholecystectomy"')],
    counted: Annotated[
        Path | None, typer.Option("--statistics", help="What `surgr1 cot statistics` has written")
    ] = None,
) -> None:
    """What a teacher is told about a kind of operation, with the sources.

    Example: surgr1 cot knowledge "laparoscopic cholecystectomy" --statistics runs/demo/knowledge.json
    """
    from surgr1.ontology.procedures import load_procedure
    from surgr1.synthesis.prompts import knowledge_text
    from surgr1.synthesis.statistics import read_statistics

    load_procedure(procedure)
    found = read_statistics(counted) if counted else {}
    print(knowledge_text(procedure, found.get(procedure)))


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Conversations (Parquet), or a folder with traces.sqlite")],
    as_json: Json = False,
) -> None:
    """Count the checks that a file's traces passed and failed, with examples, and how varied they are.

    Example: surgr1 cot check runs/demo/coldstart/traces --json
    """
    from surgr1.synthesis.quality import check_file

    found = check_file(path)
    if as_json:
        show(found, as_json)
        return
    _say(f"{found['traces']} traces, {found['accepted']} accepted, {found['no_trace']} without a trace")
    for name, row in found["checks"].items():
        _say(f"  {name:20} passed {row['passed']:7}  failed {row['failed']:6}  {row['asks']}")
        for example in row["examples"][:1]:
            _say(f"      e.g. {example['sample_id']}: {example['found']}", style="dim", markup=False)
    _say(f"words: {found['words']}")
    diversity = found["diversity"]
    _say(
        f"diversity of {diversity['traces']} traces: distinct-1/2/3"
        f" {' / '.join(f'{v:.3f}' for v in diversity['distinct'].values())}, word for word again"
        f" {diversity['repeated']:.1%}, templates {diversity['templates']}, the ten commonest"
        f" {diversity['common']:.1%}"
    )


@app.command("checks")
def score_the_checks(
    path: Annotated[Path, typer.Argument(help="Traces labelled by hand (YAML, `synthesis.labelled`)")],
    as_json: Json = False,
) -> None:
    """How good the checks are: precision and recall of each on traces labelled by hand.

    Example: surgr1 cot checks tests/synthesis/labelled_held_out.yaml
    """
    from surgr1.synthesis.labelled import checks_table, counts, score_checks

    scores = score_checks(path)
    if as_json:
        show({"file": str(path), **counts(path), "checks": [asdict(s) for s in scores]}, as_json)
    else:
        print(checks_table(scores))


@app.command()
def composition(
    paths: Annotated[list[Path], typer.Argument(help="Run folders or files of conversations")],
    as_json: Json = False,
) -> None:
    """Conversations per data set by who wrote them, beside the paper's Table 3.

    Example: surgr1 cot composition runs/demo
    """
    from surgr1.pipeline.reasoning import every_conversation
    from surgr1.synthesis.dataset import composition as counted
    from surgr1.synthesis.dataset import composition_table

    rows = counted(every_conversation(paths))
    if as_json:
        show(rows, as_json)
    else:
        print(composition_table(rows))


@app.command()
def build(
    run: RunFolder,
    out: Annotated[Path, typer.Option("--out", help="Folder of the data set")],
    export_to: Annotated[
        list[str] | None, typer.Option("--export", help="llama-factory, ms-swift or verl; repeatable")
    ] = None,
) -> None:
    """Assemble a run's conversations, without what reviewers rejected, with a card and the composition.

    Example: surgr1 cot build runs/demo --out surg-r1-data --export llama-factory
    """
    from surgr1.pipeline.reasoning import build_run

    counts = build_run(run, out, export_to or [])
    _say(f"{counts['conversations']} conversations: {out}")
    for why, n in counts["excluded"].items():
        _say(f"  left out ({why}): {n}")


@app.command()
def review(
    run: RunFolder,
    reviewer: Annotated[str, typer.Option(help="Who reviews (1 to 40 of a-z, 0-9, -)")],
    others: Annotated[
        list[str] | None, typer.Option("--with", help="The other reviewers, to share the work; repeatable")
    ] = None,
    stage: Annotated[str, typer.Option(help="coldstart or refine/iteration-N")] = "coldstart",
    double: Annotated[float, typer.Option(help="Share of traces that all reviewers see")] = 0.1,
    limit: Annotated[int | None, typer.Option(help="At most so many traces")] = None,
    port: Annotated[int, typer.Option(help="0: any free one")] = 0,
) -> None:
    """Look at traces beside their pictures in a browser on this machine; accept, reject, comment.

    Example: surgr1 cot review runs/demo --reviewer anna --limit 50
    """
    from surgr1.pipeline.reasoning import review_server

    server = review_server(
        run, reviewer, others=others or [], stage=stage, double=double, limit=limit, port=port
    )
    _say(f"open {server.url} (this machine only); Ctrl-C ends, decisions are kept", markup=False)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        _say(f"decisions: {run / 'reviews' / reviewer}.jsonl")
    finally:
        server.close()


@app.command()
def agreement(run: RunFolder, as_json: Json = False) -> None:
    """How far the reviewers of a run agree: Cohen's kappa of every two, overall and by data set and task.

    Example: surgr1 cot agreement runs/demo
    """
    from surgr1.pipeline.reasoning import reviewers_agreement

    found = reviewers_agreement(run)
    if as_json:
        show(asdict(found), as_json)
        return
    if not found.pairs:
        _say("no two reviewers have judged the same trace")
    for pair in found.pairs:
        kappas: Mapping[str, Any] = {"all": pair.overall, **pair.groups}
        for name, kappa in kappas.items():
            value = "undefined"
            if kappa.kappa is not None:
                value = f"{kappa.kappa:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]"
            _say(
                f"{' and '.join(pair.reviewers)}, {name}: kappa {value}, n {kappa.n} {kappa.note}",
                markup=False,
            )
