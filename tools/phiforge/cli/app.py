"""The commands: one function a verb, options and their help, and which exit code follows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from phiforge.cli import render
from phiforge.cli.progress import ProgressWatcher


def _exit(code: int) -> None:
    """Turn what a command returns into the exit code."""
    raise typer.Exit(code)


app = typer.Typer(
    name="phiforge",
    result_callback=_exit,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Turn a Phi-4 checkpoint into one package with a variant per device, and prove what each variant costs.\n\n"
    "Start with `phiforge doctor`, then `phiforge build CHECKPOINT --target cpu-x64`.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 the verdict is fail, 4 the verdict is unverified, 10 and up an error "
    "(docs/errors.md), 130 interrupted.",
)

Targets = Annotated[
    list[str], typer.Option("--target", "-t", help="A device profile by name or file; may be repeated.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for what is made.")]
Project = Annotated[Optional[Path], typer.Option("--project", help="The project with pipelines/ and targets/.")]
Texts = Annotated[Optional[Path], typer.Option("--texts", help="Held-out text, JSONL with id and text.")]
Tasks = Annotated[
    Optional[Path], typer.Option("--tasks", help="Folder of held-out tasks, JSONL with id, messages, answer.")
]
Threads = Annotated[Optional[int], typer.Option("--threads", min=1, help="Threads; by default the cores it may use.")]
Subject = Annotated[Path, typer.Argument(help="A package, a built variant, or a model folder of ONNX Runtime GenAI.")]
Revision = Annotated[
    Optional[str], typer.Option("--revision", help="Commit of the Hub's repository; by default the pinned one.")
]
UsedTuning = Annotated[
    Optional[Path], typer.Option("--tuning", help="A tuning.json of this machine: the variant and settings it chose.")
]
Chunk = Annotated[
    Optional[int],
    typer.Option(
        "--chunk", min=0, help="Tokens of a prompt that a GPU computes at once, 0 for all; by default what it needs."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No plan and no progress, only the result.")]


@app.command()
def build(
    checkpoint: Annotated[
        Path, typer.Argument(help="Folder with config.json, safetensors and tokenizer; or a Hub id, to be downloaded.")
    ],
    target: Targets,
    revision: Revision = None,
    output: Output = Path("artifacts"),
    pipeline: Annotated[Optional[str], typer.Option("--pipeline", "-p", help="Instead of the profile's.")] = None,
    target_bpw: Annotated[
        Optional[float],
        typer.Option("--target-bpw", min=4, max=10, help="Bits per weight; what gets int8 is measured"),
    ] = None,
    context: Annotated[
        Optional[int], typer.Option("--context", min=64, help="Tokens of context of the variants for an NPU.")
    ] = None,
    calibration: Annotated[
        Optional[Path], typer.Option("--calibration", help="Calibration text, JSONL with id and text.")
    ] = None,
    texts: Texts = None,
    tasks: Tasks = None,
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan.")] = False,
    project: Project = None,
    quiet: Quiet = False,
) -> int:
    """Build, validate, measure, judge and package a checkpoint.

    Prints the plan first (sizes, memory, disk, time). Finished stages are kept: the same command again goes on where it
    was stopped, and does nothing twice.
    """
    from phiforge.verbs.build import build as run

    with ProgressWatcher(quiet=quiet) as watcher:
        result = run(
            checkpoint,
            targets=target,
            revision=revision,
            output=output,
            pipeline=pipeline,
            target_bpw=target_bpw,
            context=context,
            calibration=calibration,
            texts=texts,
            tasks=tasks,
            threads=threads,
            dry_run=dry_run,
            project=project,
            watcher=watcher,
        )
    return render.build_result(result)


@app.command()
def validate(
    variant: Subject,
    checkpoint: Annotated[
        Optional[Path],
        typer.Option("--checkpoint", "-c", help="What it was built from: the reference. A package carries its own."),
    ] = None,
    revision: Revision = None,
    output: Output = Path("artifacts/evidence"),
    texts: Texts = None,
    tasks: Tasks = None,
    threads: Threads = None,
    chunk: Chunk = None,
    quiet: Quiet = False,
) -> int:
    """Measure what a variant costs in accuracy: drift, answers, probes.

    A package can be validated without its checkpoint: it carries what the original said of some texts and questions.
    """
    from phiforge.verbs.validate import validate as run

    with ProgressWatcher(quiet=quiet) as watcher:
        folders = run(
            variant,
            checkpoint,
            revision=revision,
            output=output,
            texts=texts,
            tasks=tasks,
            threads=threads,
            chunk=chunk,
            watcher=watcher,
        )
    return render.evidence_folders(folders)


@app.command()
def bench(
    variant: Subject,
    target: Annotated[
        Optional[str],
        typer.Option("--target", "-t", help="The device profile that says how to measure. A package carries its own."),
    ] = None,
    output: Output = Path("artifacts/evidence"),
    tuning: UsedTuning = None,
    project: Project = None,
    quiet: Quiet = False,
) -> int:
    """Measure a variant's latency and memory on this machine, in a fresh process."""
    from phiforge.verbs.bench import bench as run

    with ProgressWatcher(quiet=quiet) as watcher:
        files = run(variant, target=target, output=output, tuning=tuning, project=project, watcher=watcher)
    return render.latency_files(files)


@app.command()
def measure(
    package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")],
    variant: Annotated[
        Optional[str], typer.Option("--variant", help="A variant by name, instead of the one this machine gets.")
    ] = None,
    target: Annotated[
        Optional[str], typer.Option("--target", "-t", help="A profile of the package, instead of the one that fits.")
    ] = None,
    output: Output = Path("artifacts/evidence"),
    threads: Threads = None,
    device: Annotated[
        Optional[int], typer.Option("--device", min=0, help="The device that must run it, from 0.")
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Measure a package on this machine and write one evidence file for `phiforge report` on the build machine.

    Needs the package and the light install, no checkpoint and no project. An interrupted run goes on where it was.
    """
    from phiforge.cli.kit import measurement, show_job
    from phiforge.verbs.measure import measure as run

    with ProgressWatcher(quiet=quiet) as watcher:
        found = run(
            package,
            variant=variant,
            target=target,
            output=output,
            threads=threads,
            device=device,
            watcher=watcher,
            on_job=show_job,
        )
    return measurement(found)


@app.command()
def tune(
    candidates: Annotated[list[Path], typer.Argument(help="Packages or built variants, in order of preference.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The device profile whose budgets must be kept.")],
    output: Output = Path("artifacts/tuning"),
    evidence: Annotated[
        Optional[list[Path]], typer.Option("--evidence", "-e", help="Folders with the candidates' evidence.")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="How often each contender is measured.")] = 5,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", min=1, help="Prompt of the timed turn.")] = 128,
    decode_tokens: Annotated[int, typer.Option("--decode-tokens", min=1, help="Tokens decoded in it.")] = 64,
    project: Project = None,
    quiet: Quiet = False,
) -> int:
    """Choose variant, threads and session options by measuring on this machine.

    Only candidates whose drift evidence is within the profile's budgets can be chosen. `bench` and `chat` apply the
    choice with --tuning.
    """
    from phiforge.cli.tuning import show_tuning
    from phiforge.verbs.tune import tune as run

    with ProgressWatcher(quiet=quiet) as watcher:
        result = run(
            candidates,
            target=target,
            output=output,
            evidence=evidence or (),
            rounds=rounds,
            prompt_tokens=prompt_tokens,
            decode_tokens=decode_tokens,
            project=project,
            watcher=watcher,
        )
    return show_tuning(result)


@app.command("explain-drift")
def explain_drift(
    variant: Annotated[Path, typer.Argument(help="A built variant for an NPU: the folder with variant.json.")],
    checkpoint: Annotated[Path, typer.Option("--checkpoint", "-c", help="What it was built from: the reference.")],
    output: Output = Path("artifacts/drift"),
    texts: Texts = None,
    positions: Annotated[int, typer.Option("--positions", min=64, help="Positions scored at each trial.")] = 512,
    threads: Threads = None,
    quiet: Quiet = False,
) -> int:
    """Name the layers and tensors whose quantization costs an NPU variant most."""
    from phiforge.cli.drift import show_sources
    from phiforge.verbs.explain_drift import explain_drift as run

    with ProgressWatcher(quiet=quiet) as watcher:
        found = run(
            variant, checkpoint, output=output, texts=texts, positions=positions, threads=threads, watcher=watcher
        )
    return show_sources(*found)


@app.command()
def package(
    variant: Annotated[
        Path, typer.Argument(help="A variant that `phiforge build` made: the folder with variant.json.")
    ],
    evidence: Annotated[Path, typer.Option("--evidence", "-e", help="Folder with the variant's evidence files.")],
    target: Targets,
    output: Output = Path("artifacts"),
    project: Project = None,
) -> int:
    """Put a built variant and its evidence into a sealed package."""
    from phiforge.verbs.package import package as run

    return render.path("Package", run(variant, evidence=evidence, targets=target, output=output, project=project))


@app.command()
def verify(package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")]) -> int:
    """Find any changed, missing or added file of a package."""
    from phiforge.verbs.verify import verify as run

    return render.verification(run(package))


@app.command()
def report(
    package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")],
    output: Output = Path("artifacts/report"),
    evidence: Annotated[
        Optional[list[Path]],
        typer.Option("--evidence", "-e", help="An evidence file from a device, or a single record; may be repeated."),
    ] = None,
) -> int:
    """Judge a package's evidence again and write its reports (JSON, Markdown, HTML).

    What `phiforge measure` wrote on other machines is merged: it must be of this very package.
    """
    from phiforge.verbs.report import report as run

    return render.reports(run(package, output=output, evidence=evidence or ()))


@app.command()
def targets(project: Project = None) -> int:
    """List the device profiles."""
    from phiforge.verbs.targets import targets as run

    return render.profiles(run(project))


@app.command()
def pipelines(project: Project = None) -> int:
    """List the pipelines."""
    from phiforge.verbs.pipelines import pipelines as run

    return render.pipelines(run(project))


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint, package, variant or model folder; or a Hub id.")],
    revision: Revision = None,
) -> int:
    """Say what a checkpoint, a variant or a package is, and whether it is sound."""
    from phiforge.verbs.inspect import inspect as run

    with ProgressWatcher(quiet=False) as watcher:
        found = run(path, revision=revision, watcher=watcher)
    return render.inspection(found)


@app.command()
def doctor() -> int:
    """Say what this machine can build, run and emulate, and what is missing."""
    from phiforge.verbs.doctor import doctor as run

    return render.diagnosis(run())


@app.command()
def chat(
    package: Subject,
    prompt: Annotated[Optional[str], typer.Option("--prompt", help="Ask this one thing and exit.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 512,
    threads: Threads = None,
    tuning: UsedTuning = None,
) -> int:
    """Talk to a package. End with an empty line."""
    from phiforge.verbs.chat import chat as run

    return render.conversation(run(package, max_new_tokens=max_new_tokens, threads=threads, tuning=tuning), prompt)


@app.command()
def explain(package: Annotated[Path, typer.Argument(help="A package (.ortpackage folder).")]) -> int:
    """Say which variant of a package this machine gets, and why not each of the others."""
    from phiforge.cli.explain import show_explanation
    from phiforge.verbs.explain import explain as run

    return show_explanation(run(package))


@app.command()
def conform(
    checkpoint: Annotated[Path, typer.Argument(help="A Hugging Face folder, or a Hub id; its weights are not read.")],
    target: Targets,
    pipeline: Annotated[Optional[str], typer.Option("--pipeline", "-p", help="Instead of the profile's.")] = None,
    revision: Revision = None,
    project: Project = None,
) -> int:
    """Say before a build for GPUs whether every node of the graph would run there."""
    from phiforge.cli.conform import show_conformance
    from phiforge.verbs.conform import conform as run

    with ProgressWatcher(quiet=False) as watcher:
        found = run(checkpoint, targets=target, pipeline=pipeline, revision=revision, project=project, watcher=watcher)
    return show_conformance(found)
