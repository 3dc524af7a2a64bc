"""The held-out data of a validation, and what the original says of it: what every variant is held against."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.inspect import fingerprint
from phiforge.evidence import Conditions
from phiforge.machine import describe_machine, tool_versions
from phiforge.selection import RUNTIME_WHEELS
from phiforge.validation import probes
from phiforge.validation.reference import Source, compute_answers, compute_reference, tokenize
from phiforge.validation.samples import CONVERSATIONS, TEXTS
from phiforge.validation.tasks import is_right
from phiforge.validation.texts import DataSet, data_set, load_tasks, load_texts, task_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.validation.drift import Reference
    from phiforge.validation.reference import Answer, Conversation, Tokenization
    from phiforge.validation.texts import Question, Text

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
# The most tokens of an answer; room for the thinking of a reasoning model on a short question.
ANSWER_TOKENS = 512
LIMIT_STEP = 64


@dataclass(frozen=True)
class HeldOut:
    """The held-out data, with the name of its task beside each question."""

    texts: tuple[Text, ...]
    questions: tuple[tuple[str, Question], ...]
    text_set: DataSet
    task_set: DataSet

    @property
    def probe_texts(self) -> list[str]:
        """The texts of the tokenizer probe."""
        return [*TEXTS, *(text.text for text in self.texts)]


@dataclass(frozen=True)
class Tokenized:
    """A text, and its ids by the original tokenizer."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Chat:
    """A conversation, and its prompt by the original tokenizer, as text and as ids."""

    messages: Conversation
    text: str
    ids: list[int]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, and how the original answered it.

    Attributes:
        task: The task it belongs to.
        prompt: Its token ids.
        limit: The most new tokens of an answer.
        answer: The right answer.
        right: Whether the original gave it.
        tokens: The original's new tokens, without the stop id.
        ending: How its answer ended.
    """

    task: str
    prompt: list[int]
    limit: int
    answer: str
    right: bool
    tokens: int
    ending: probes.Ending


@dataclass(frozen=True, kw_only=True)
class Said:
    """All that a variant is held against: what the original says, whoever tells it.

    Attributes:
        fingerprint: Of the original.
        vocab_size: Columns of its logits.
        stop_ids: The ids that end its answers.
        switch: The longest sequence with longrope's short factors; None without longrope.
        text_set: The files that the texts are from.
        task_set: The files that the questions are from.
        tokenized: Texts for the tokenizer probe.
        chats: Conversations for the probe of the chat template.
        texts: Distributions over the texts of the drift.
        around_switch: The same over prompts around the switch; of these the last rows alone may be there.
        questions: The questions with the original's answers; none without tasks.
        notes: What the conditions of evidence must say of all this.
    """

    fingerprint: str
    vocab_size: int
    stop_ids: tuple[int, ...]
    switch: int | None
    text_set: DataSet
    task_set: DataSet
    tokenized: tuple[Tokenized, ...]
    chats: tuple[Chat, ...]
    texts: Reference
    around_switch: Reference | None
    questions: tuple[Asked, ...]
    notes: tuple[str, ...] = ()


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
        text_set=data_set([texts]),
        task_set=data_set(task_files(tasks) if tasks else []),
    )


def ask_checkpoint(
    checkpoint: Path, texts: Path, tasks: Path | None, *, context: int, cache: Path, threads: int, progress: Progress
) -> Said:
    """Ask a checkpoint everything that its variants are held against, and let go of its memory.

    Args:
        checkpoint: The original.
        texts: Held-out texts, JSONL.
        tasks: Folder of held-out questions, JSONL, or None.
        context: The most tokens of a sequence that the variant takes; the original's own are the limit.
        cache: Folder for what the original says, which all variants of the checkpoint share.
        threads: Threads of torch.
        progress: Told of each step: (step, done, total).

    Raises:
        EvidenceInvalidError: The held-out data cannot be used.
        ConfigInvalidError: The checkpoint's model does not load.
        TokenizerMismatchError: The checkpoint's tokenizer does not load.
    """
    data, config = load_held_out(texts, tasks), load_config(checkpoint)
    source = Source(checkpoint, fingerprint(checkpoint), cache, threads)
    said = ask(source, config, data, min(config.max_positions, context), progress)
    source.close()
    return said


def ask(source: Source, config: ModelConfig, data: HeldOut, context: int, progress: Progress) -> Said:
    """Ask the original everything that the variant is held against; texts are cut to the context."""
    conversations = [*CONVERSATIONS, *(question.conversation() for _, question in data.questions)]
    tokens = tokenize(source, data.probe_texts, conversations)
    texts = [ids[:context] for ids in tokens.texts[len(TEXTS) :]]
    reference = compute_reference(
        source, texts, on_layer=lambda done, total: progress("reference texts, layer by layer", done, total)
    )
    questions = _ask_questions(source, config, data, tokens, context, progress)
    around = switch_prompts(texts, config.original_max_positions, context)
    switch = compute_reference(
        source, around, on_layer=lambda done, total: progress("reference around the longrope switch", done, total)
    ) if around else None  # fmt: skip
    own = zip(CONVERSATIONS, tokens.chat_texts, tokens.chat_ids, strict=False)
    return Said(
        fingerprint=source.fingerprint,
        vocab_size=config.vocab_size,
        stop_ids=config.stop_ids,
        switch=config.original_max_positions,
        text_set=data.text_set,
        task_set=data.task_set,
        tokenized=tuple(Tokenized(*pair) for pair in zip(data.probe_texts, tokens.texts, strict=True)),
        chats=tuple(Chat(*parts) for parts in own),
        texts=reference,
        around_switch=switch,
        questions=questions,
    )


def _ask_questions(
    source: Source, config: ModelConfig, data: HeldOut, tokens: Tokenization, context: int, progress: Progress
) -> tuple[Asked, ...]:
    prompts = tokens.chat_ids[len(CONVERSATIONS) :]
    if not prompts:
        return ()
    limits = [answer_limit(len(prompt), config.original_max_positions, context) for prompt in prompts]
    answers = compute_answers(
        source, prompts, limits, config.stop_ids, switch=config.original_max_positions,
        on_answer=lambda done: progress("reference answers", done, len(prompts)),
    )  # fmt: skip
    return tuple(
        _asked(task, question, prompt, limit, answer)
        for (task, question), prompt, limit, answer in zip(data.questions, prompts, limits, answers, strict=True)
    )


def _asked(task: str, question: Question, prompt: list[int], limit: int, answer: Answer) -> Asked:
    return Asked(
        task=task,
        prompt=prompt,
        limit=limit,
        answer=question.answer,
        right=is_right(answer.text, question.answer),
        tokens=len(answer.tokens),
        ending=probes.ending(answer.tokens, stopped=answer.stopped),
    )


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
    end = min(switch, context) if switch and prompt_tokens <= switch else context
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
