"""The held-out data of a validation, and what the original says of it: what every variant is held against."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.inspect import fingerprint
from phiforge.evidence import Conditions
from phiforge.machine import describe_machine, now, tool_versions
from phiforge.selection import RUNTIME_WHEELS
from phiforge.validation import probes
from phiforge.validation.asking import (
    DEFAULT_ASKING,
    Asking,
    Interview,
    ask_choices,
    ask_continuations,
    ask_exercises,
    ask_refusals,
)
from phiforge.validation.reference import Source, compute_reference, tokenize
from phiforge.validation.reference_outputs import Chat, ReferenceAnswer, ReferenceOutputs, SuiteFacts, Tokenized
from phiforge.validation.refusals import load_prompts
from phiforge.validation.samples import CONVERSATIONS, TEXTS
from phiforge.validation.suites import load_suites
from phiforge.validation.texts import DataFile, DataSet, data_set, load_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from phiforge.texts import Text
    from phiforge.validation.drift import Reference
    from phiforge.validation.reference import Conversation
    from phiforge.validation.refusals import RefusalPrompt
    from phiforge.validation.suites import Choice, Exercise, Suite

    Progress = Callable[[str, int, int], None]

VERSIONS = (
    *RUNTIME_WHEELS,
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "phiforge",
)
SPLIT = "held-out"

__all__ = [
    "Chat",
    "HeldOut",
    "ReferenceAnswer",
    "ReferenceOutputs",
    "Stamp",
    "Tokenized",
    "ask",
    "ask_checkpoint",
    "load_held_out",
    "reference_of",
    "switch_prompts",
]  # fmt: skip

AnyItem = TypeVar("AnyItem")


@dataclass(frozen=True)
class HeldOut:
    """The held-out data."""

    texts: tuple[Text, ...]
    suites: tuple[Suite, ...]
    refusals: tuple[RefusalPrompt, ...]
    text_set: DataSet
    task_set: DataSet
    prompt_set: DataSet

    @property
    def probe_texts(self) -> list[str]:
        """The texts of the tokenizer probe."""
        return [*TEXTS, *(text.text for text in self.texts)]

    @property
    def exercises(self) -> list[tuple[str, str, Exercise]]:
        """The exercises of all suites, each with the suite's name and format."""
        return [(suite.name, suite.format, item) for suite in self.suites for item in suite.exercises]

    @property
    def choices(self) -> list[tuple[str, Choice]]:
        """The choices of all suites, each with the suite's name."""
        return [(suite.name, item) for suite in self.suites for item in suite.choices]

    @property
    def conversations(self) -> list[Conversation]:
        """What is asked: the probe's own conversations, exercises, choices, prompts that may be refused, in order."""
        turns = [*(item.messages for _, _, item in self.exercises), *(item.messages for _, item in self.choices)]
        asked = [[message.model_dump() for message in messages] for messages in turns]
        return [*CONVERSATIONS, *asked, *([{"role": "user", "content": item.prompt}] for item in self.refusals)]


@dataclass(frozen=True)
class Stamp:
    """What every record of one validation says of its variant, its reference and its conditions."""

    provider: str
    threads: int
    variant_sha256: str
    reference_sha256: str
    notes: tuple[str, ...] = ()

    def conditions(self, data: DataSet, samples: int) -> Conditions:
        """Return the conditions of numbers made from held-out data."""
        return Conditions(
            machine=describe_machine(),
            provider=self.provider,
            threads=self.threads,
            versions=tool_versions(VERSIONS),
            dataset=data.name,
            split=SPLIT,
            dataset_sha256=data.sha256,
            samples=samples,
            taken_at=now(),
            notes=self.notes,
        )


def load_held_out(texts: Path, tasks: Path | None, *, run_code: bool = False) -> HeldOut:
    """Read texts, the prompts for refusals and, where there are any, tasks.

    Raises:
        EvidenceInvalidError: The texts cannot be used.
        TasksInvalidError: The tasks cannot be used.
    """
    suites = load_suites(tasks, run_code=run_code) if tasks else ()
    prompt_file, prompts = load_prompts()
    return HeldOut(
        texts=load_texts(texts),
        suites=suites,
        refusals=prompts,
        text_set=data_set([texts]),
        task_set=DataSet(tuple(DataFile(suite.source.file, suite.source.sha256) for suite in suites)),
        prompt_set=data_set([prompt_file]),
    )


def ask_checkpoint(
    checkpoint: Path,
    texts: Path,
    tasks: Path | None,
    *,
    context: int,
    cache: Path,
    threads: int,
    progress: Progress,
    asking: Asking = DEFAULT_ASKING,
) -> ReferenceOutputs:
    """Ask a checkpoint everything that its variants are held against, and let go of its memory.

    Args:
        checkpoint: The original.
        texts: Held-out texts, JSONL.
        tasks: Folder of task files, or None.
        context: The most tokens of a sequence that the variant takes; the original's own are the limit.
        cache: Folder for what the original says, which all variants of the checkpoint share.
        threads: Threads of torch.
        progress: Told of each step: (step, done, total).
        asking: How much is asked.

    Raises:
        EvidenceInvalidError: The held-out texts cannot be used.
        TasksInvalidError: The tasks cannot be used.
        ConfigInvalidError: The checkpoint's model does not load.
        TokenizerMismatchError: The checkpoint's tokenizer does not load.
    """
    data, config = load_held_out(texts, tasks, run_code=asking.run_code), load_config(checkpoint)
    source = Source(checkpoint, fingerprint(checkpoint), cache, threads)
    context = min(config.max_positions, context)
    outputs = ask(Interview(source=source, config=config, context=context, progress=progress), data, asking)
    source.close()
    return outputs


def ask(interview: Interview, data: HeldOut, asking: Asking = DEFAULT_ASKING) -> ReferenceOutputs:
    """Ask the original everything that the variant is held against; texts are cut to the context."""
    source, config, context, progress = interview.source, interview.config, interview.context, interview.progress
    tokens = tokenize(source, data.probe_texts, data.conversations)
    texts = [ids[:context] for ids in tokens.texts[len(TEXTS) :]]
    reference = compute_reference(
        source, texts, on_layer=lambda done, total: progress("reference texts, layer by layer", done, total)
    )
    counts = (len(CONVERSATIONS), len(data.exercises), len(data.choices), len(data.refusals))
    _, questions, chosen, refused = _parts(tokens.chat_ids, counts)
    _, _, chosen_texts, _ = _parts(tokens.chat_texts, counts)
    around = switch_prompts(texts, config.original_max_positions, context)
    switch = compute_reference(
        source, around, on_layer=lambda done, total: progress("reference around the longrope switch", done, total)
    ) if around else None  # fmt: skip
    own = zip(CONVERSATIONS, tokens.chat_texts, tokens.chat_ids, strict=False)
    return ReferenceOutputs(
        fingerprint=source.fingerprint,
        vocab_size=config.vocab_size,
        stop_ids=config.stop_ids,
        switch=config.original_max_positions,
        text_set=data.text_set,
        task_set=data.task_set,
        prompt_set=data.prompt_set,
        tokenized=tuple(Tokenized(*pair) for pair in zip(data.probe_texts, tokens.texts, strict=True)),
        chats=tuple(Chat(*parts) for parts in own),
        texts=reference,
        around_switch=switch,
        suites=tuple(_facts(suite) for suite in data.suites),
        questions=ask_exercises(interview, data.exercises, questions),
        choices=ask_choices(interview, data.choices, chosen_texts, chosen),
        continued=ask_continuations(interview, questions, texts, asking.continuation_tokens),
        prompted=ask_refusals(interview, data.refusals, refused),
    )


def _parts(items: Sequence[AnyItem], counts: Sequence[int]) -> list[list[AnyItem]]:
    """Cut a list into parts of these lengths."""
    ends = list(accumulate(counts))
    return [list(items[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _facts(suite: Suite) -> SuiteFacts:
    return SuiteFacts(name=suite.name, format=suite.format, metric=suite.metric, source=suite.source, notes=suite.notes)


def reference_of(
    checkpoint: Path, texts: Path, *, context: int, positions: int, cache: Path, threads: int, progress: Progress
) -> Reference:
    """Return what the original says of the first held-out texts, so many that they have `positions` tokens.

    Raises:
        EvidenceInvalidError: The texts cannot be used.
        TokenizerMismatchError: The checkpoint's tokenizer does not load.
    """
    source = Source(checkpoint, fingerprint(checkpoint), cache, threads)
    cut = [ids[:context] for ids in tokenize(source, [text.text for text in load_texts(texts)], []).texts]
    counts = list(accumulate(map(len, cut)))
    needed = next((index + 1 for index, count in enumerate(counts) if count >= positions), len(cut))
    found = compute_reference(
        source, cut[:needed], on_layer=lambda done, total: progress("reference texts, layer by layer", done, total)
    )
    source.close()
    return found


def switch_prompts(texts: Sequence[Sequence[int]], switch: int | None, context: int) -> list[list[int]]:
    """Return prompts just below, at and above the longrope switch, cut from the texts one after the other.

    There are none without a switch, or where the context ends there.
    """
    if switch is None or switch + probes.DECODE_STEPS > context:
        return []
    line = [token for text in texts for token in text]
    while line and len(line) < switch + max(probes.SWITCH_OFFSETS):
        line += line
    return [line[: switch + offset] for offset in probes.SWITCH_OFFSETS]
