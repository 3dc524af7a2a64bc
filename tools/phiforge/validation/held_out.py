"""The held-out data of a validation, and what the original says of it: what every variant is held against."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from phiforge.checkpoint.inspect import fingerprint
from phiforge.evidence import Conditions
from phiforge.machine import describe_machine, tool_versions
from phiforge.validation import probes
from phiforge.validation.reference import Source, compute_answers, compute_reference, tokenize
from phiforge.validation.samples import CONVERSATIONS, TEXTS
from phiforge.validation.texts import load_tasks, load_texts, sha256_of, task_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.validation.drift import Reference
    from phiforge.validation.reference import Answer, Tokenization
    from phiforge.validation.texts import Question, Text

    Progress = Callable[[str, int, int], None]

VERSIONS = (
    "onnxruntime",
    "onnxruntime-genai",
    "onnxruntime-qnn",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "phiforge",
)
# The most tokens of an answer; room for the thinking of a reasoning model on a short question.
ANSWER_TOKENS = 512
LIMIT_STEP = 64


@dataclass(frozen=True)
class HeldOut:
    """The held-out data, with the name of its task beside each question."""

    texts: tuple[Text, ...]
    questions: tuple[tuple[str, Question], ...]
    text_files: tuple[Path, ...]
    task_files: tuple[Path, ...]

    @property
    def probe_texts(self) -> list[str]:
        """The texts of the tokenizer probe."""
        return [*TEXTS, *(text.text for text in self.texts)]


@dataclass(frozen=True)
class Said:
    """What the original says: ids and prompts, distributions over the texts and around the switch, answers."""

    tokens: Tokenization
    texts: Reference
    around_switch: Reference | None
    prompts: tuple[list[int], ...]
    limits: tuple[int, ...]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Stamp:
    """What every record of one validation says of its variant, its reference and its conditions."""

    provider: str
    threads: int
    variant_sha256: str
    reference_sha256: str
    notes: tuple[str, ...] = ()

    def conditions(self, files: Sequence[Path], samples: int) -> Conditions:
        """Return the conditions of numbers made from data files."""
        return Conditions(
            machine=describe_machine(),
            provider=self.provider,
            threads=self.threads,
            versions=tool_versions(VERSIONS),
            dataset=", ".join(file.name for file in files),
            split="held-out",
            dataset_sha256=sha256_of(files),
            samples=samples,
            notes=self.notes,
        )


def load_held_out(texts: Path, tasks: Path | None) -> HeldOut:
    """Read texts and, where there are any, tasks.

    Raises:
        EvidenceInvalidError: They cannot be used.
    """
    named = load_tasks(tasks) if tasks else ()
    return HeldOut(
        texts=load_texts(texts),
        questions=tuple((task.name, question) for task in named for question in task.questions),
        text_files=(texts,),
        task_files=tuple(task_files(tasks)) if tasks else (),
    )


def ask(source: Source, config: ModelConfig, data: HeldOut, context: int, progress: Progress) -> Said:
    """Ask the original everything that the variant is held against; texts are cut to the context."""
    conversations = [*CONVERSATIONS, *(question.conversation() for _, question in data.questions)]
    tokens = tokenize(source, data.probe_texts, conversations)
    texts = [ids[:context] for ids in tokens.texts[len(TEXTS) :]]
    reference = compute_reference(
        source, texts, on_layer=lambda done, total: progress("reference texts, layer by layer", done, total)
    )
    prompts = tokens.chat_ids[len(CONVERSATIONS) :]
    limits = tuple(answer_limit(len(prompt), config.original_max_positions, context) for prompt in prompts)
    answers = compute_answers(
        source, prompts, limits, config.stop_ids, switch=config.original_max_positions,
        on_answer=lambda done: progress("reference answers", done, len(prompts)),
    ) if prompts else []  # fmt: skip
    around = switch_prompts(texts, config.original_max_positions, context)
    switch = compute_reference(
        source, around, on_layer=lambda done, total: progress("reference around the longrope switch", done, total)
    ) if around else None  # fmt: skip
    return Said(tokens, reference, switch, prompts, limits, tuple(answers))


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


def answer_limit(prompt_tokens: int, switch: int | None, context: int) -> int:
    """Return the most new tokens of an answer: none crosses the longrope switch, where caches are computed anew.

    A prompt that is beyond the switch itself may use the whole context. Limits are multiples of 64 where there is room,
    so that prompts of nearly equal length can be decoded together.
    """
    end = switch if switch and prompt_tokens <= switch else context
    room = min(ANSWER_TOKENS, end - prompt_tokens)
    return max(1, room - room % LIMIT_STEP if room > LIMIT_STEP else room)


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
