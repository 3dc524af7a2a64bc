"""The application, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


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
    Optional[Path], typer.Option("--tasks", help="Folder of task files, with the tasks.toml that declares them.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Also ask tasks whose judging runs the model's code, in a sandbox.")
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
