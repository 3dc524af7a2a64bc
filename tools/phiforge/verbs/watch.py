"""How a verb tells its caller what it is doing: the command line draws it, a program may ignore it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from phiforge.plan import Plan


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage that is over; a reused one was found in the store."""

    stage: str
    seconds: float
    reused: bool


class Watcher(Protocol):
    """Whoever watches a verb work."""

    def resolved(self, plan: Plan) -> None:
        """The plan is resolved and nothing is done yet."""

    def began(self, stage: str) -> None:
        """A stage begins."""

    def advanced(self, step: str, done: int, total: int) -> None:
        """A step of the current stage is `done` of `total` units far."""

    def ended(self, record: StageRecord) -> None:
        """A stage is over."""


class Unwatched:
    """A watcher that looks away."""

    def resolved(self, plan: Plan) -> None:
        """Ignore the plan."""

    def began(self, stage: str) -> None:
        """Ignore the stage."""

    def advanced(self, step: str, done: int, total: int) -> None:
        """Ignore the step."""

    def ended(self, record: StageRecord) -> None:
        """Ignore the record."""


@dataclass
class Stages:
    """The stages of one run, as they are told to the watcher and kept for the report."""

    watcher: Watcher
    records: list[StageRecord] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time a stage that does work."""
        self.watcher.began(stage)
        start = time.monotonic()
        yield
        self._end(StageRecord(stage=stage, seconds=time.monotonic() - start, reused=False))

    def reused(self, stage: str) -> None:
        """Record a stage that was found in the store."""
        self._end(StageRecord(stage=stage, seconds=0.0, reused=True))

    def _end(self, record: StageRecord) -> None:
        self.records.append(record)
        self.watcher.ended(record)
