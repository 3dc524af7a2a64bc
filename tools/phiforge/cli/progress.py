"""Draw what a verb is doing: the plan, then a progress bar for each stage and a line when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

from phiforge.cli.render import show_plan
from phiforge.cli.terminal import console, say
from phiforge.visible import visible

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import TaskID

    from phiforge.plan import Plan
    from phiforge.verbs.watch import StageRecord


class ProgressWatcher:
    """Draws on standard error, so that standard output holds results alone. Use as a context manager."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = console(stderr=True, quiet=quiet)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._stage = ""
        self._steps: dict[str, TaskID] = {}

    def __enter__(self) -> ProgressWatcher:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def resolved(self, plan: Plan) -> None:
        """Print the plan."""
        show_plan(plan, self._console)

    def began(self, stage: str) -> None:
        """Start a stage's bar."""
        self._stage = stage
        self._steps = {stage: self._progress.add_task(visible(stage), total=None)}

    def advanced(self, step: str, done: int, total: int) -> None:
        """Move the bar of a step of the current stage."""
        if step not in self._steps:
            self._steps[step] = self._progress.add_task(visible(f"{self._stage}: {step}"), total=total)
        self._progress.update(self._steps[step], completed=done, total=total)

    def ended(self, record: StageRecord) -> None:
        """Remove the stage's bars and print its line."""
        for task in self._steps.values():
            self._progress.remove_task(task)
        self._steps = {}
        how = "nothing changed, not done again" if record.reused else f"{record.seconds:.1f} s"
        say(self._console, ("✓", "green"), f" {record.stage}  ", (how, "dim"))
