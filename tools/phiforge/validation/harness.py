"""Tasks of the lm-evaluation-harness before and after: original and variant answer them, by the extra `[tasks]`.

Both get the same token ids: prompts are rendered and tokenized by the original. That the variant's own chat template
and tokenizer give the same is what its probes check.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from phiforge import errors
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.inspect import fingerprint
from phiforge.evidence import Metric, Tasks, TaskScore
from phiforge.validation.choices import share_prompt
from phiforge.validation.drift import log_softmax
from phiforge.validation.held_out import Stamp
from phiforge.validation.portions import ANSWER_TOKENS, answer_limit
from phiforge.validation.reference import Source, compute_answers
from phiforge.validation.run import generate_all
from phiforge.validation.suites.lm_eval import evaluate
from phiforge.validation.tasks import Answered, overall_score
from phiforge.validation.texts import DataSet
from phiforge.validation.twin import scored_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from hashlib import _Hash as Hash
    from pathlib import Path

    from numpy.typing import NDArray

    from phiforge.evidence import Kind
    from phiforge.validation.original import Original
    from phiforge.validation.suites.lm_eval import Prompt, Run
    from phiforge.validation.way import Way

    # Prompts and limits to texts.
    Write = Callable[[Sequence[list[int]], Sequence[int]], Sequence[str]]
    LogitsOf = Callable[[Sequence[int]], NDArray[np.float32]]


HARNESS_SPLIT = "the harness's"
# How the harness judges by its metrics, in our words; by all others it compares texts.
HARNESS_METRICS: dict[str, Metric] = {"acc": "log-likelihood", "prompt_level_strict_acc": "instructions"}


@dataclass(frozen=True, kw_only=True)
class HarnessAnswerer:
    """A model as the harness asks it: the original or a variant.

    Attributes:
        name: What the harness calls it.
        original: Renders and tokenizes.
        first_token: What a text without a prompt follows.
        switch: The longest sequence with longrope's short factors; None without longrope.
        context: The most tokens of a sequence.
        write: Continues prompts greedily, each by so many tokens at most.
        logits_of: The model's logits of token ids, float [n, vocab].
        asked: SHA-256 over all that was asked so far, which stands for the data: the harness has it from elsewhere.
    """

    name: str
    original: Original
    first_token: int
    switch: int | None
    context: int
    write: Write
    logits_of: LogitsOf
    asked: Hash = field(default_factory=hashlib.sha256, compare=False)

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        """Return a conversation as the chat template writes it."""
        return self.original.chat_text(messages, add_generation_prompt=add_generation_prompt)

    def generate(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        """Return what the model writes after each prompt, as decoded.

        Raises:
            ContextTooLongError: A prompt leaves no room for an answer.
        """
        self._note(prompt.text for prompt in prompts)
        ids = [self.original.encode(prompt.text) for prompt in prompts]
        longest = max(map(len, ids), default=0)
        if longest >= self.context:
            raise _too_long(longest, self.context)
        limits = [
            min(prompt.limit_tokens or ANSWER_TOKENS, answer_limit(len(tokens), self.switch, self.context))
            for prompt, tokens in zip(prompts, ids, strict=True)
        ]
        return self.write(ids, limits)

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[float, bool]]:
        """Return, for each context and continuation, the log-likelihood in nats and whether it is the greedy one.

        Raises:
            ContextTooLongError: Both together are longer than the context.
        """
        self._note(text for pair in pairs for text in pair)
        return [self._log_likelihood(context, continuation) for context, continuation in pairs]

    def _note(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.asked.update(text.encode("utf-8") + b"\0")

    def _log_likelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        if context:
            whole = self.original.encode(context + continuation)
            prompt, (rest,) = share_prompt(self.original.encode(context), [whole])
        else:
            prompt, rest = [self.first_token], self.original.encode(continuation)
        if not rest:
            return 0.0, True
        if len(prompt) + len(rest) > self.context:
            raise _too_long(len(prompt) + len(rest), self.context)
        logs = log_softmax(self.logits_of([*prompt, *rest[:-1]])[len(prompt) - 1 :])
        greedy = bool((logs.argmax(axis=1) == np.asarray(rest)).all())
        return float(logs[np.arange(len(rest)), np.asarray(rest)].sum()), greedy


def ask_harness(
    variant: Path,
    checkpoint: Path,
    names: Sequence[str],
    way: Way,
    *,
    variant_sha256: str,
    context: int,
    work: Path,
    threads: int,
) -> Tasks:
    """Ask original and variant the same tasks of the harness, and return the scores before and after.

    Args:
        variant: A complete variant folder.
        checkpoint: The original.
        names: Tasks, groups or tags of the harness, or paths of task files (.yaml).
        way: How the variant is run.
        variant_sha256: What the evidence is about.
        context: The most tokens of a sequence that both take.
        work: Folder for the original's answers and for what is made on the way.
        threads: Threads of torch and of the runtime.

    Raises:
        DependencyMissingError: The harness is not installed.
        NetworkError: A task's data set is not here and cannot be fetched.
        TasksInvalidError: A task is unknown or broken, runs code, or is not scored by right and wrong.
        ContextTooLongError: A question does not fit.
        VariantUnusableError: The variant does not load or does not answer.
    """
    from phiforge.validation.original import Original

    config, tokenizer = load_config(checkpoint), Original(checkpoint, threads=threads)
    source = Source(checkpoint, fingerprint(checkpoint), work, threads)
    stop_ids, switch = config.stop_ids, config.original_max_positions
    answerer = partial(
        HarnessAnswerer, original=tokenizer, first_token=stop_ids[0], switch=switch,
        context=min(config.max_positions, context),
    )  # fmt: skip

    def write(prompts: Sequence[list[int]], limits: Sequence[int]) -> list[str]:
        return [answer.text for answer in compute_answers(source, prompts, limits, stop_ids, switch=switch)]

    reference = answerer(name=checkpoint.name, write=write, logits_of=source.original.logits)
    before = evaluate(reference, names)
    asked = reference.asked.hexdigest()
    del reference
    source.close()
    with scored_folder(variant, work) as folder:
        after, provider, used = _ask_variant(variant, folder, way, threads, answerer, names)
    stamp = Stamp(provider, used, variant_sha256, source.fingerprint, way.notes)
    return tasks_of_runs(before, after, asked, kind=way.kind, stamp=stamp)


def _ask_variant(
    variant: Path, scored: Path, way: Way, threads: int, answerer: Callable[..., HarnessAnswerer], names: Sequence[str]
) -> tuple[tuple[Run, ...], str, int]:
    """Ask a variant; return its runs, its provider and its threads. It is closed when this returns."""
    opened = way.open(variant, threads)
    every = opened if scored == variant else way.open(scored, threads)

    def speak(prompts: Sequence[list[int]], limits: Sequence[int]) -> list[str]:
        return [item.text for item in generate_all(opened, way.batch, prompts, limits, lambda done: None)]

    ours = answerer(name=variant.name, write=speak, logits_of=partial(way.logits, every))
    return evaluate(ours, names), opened.provider, opened.threads


def tasks_of_runs(before: Sequence[Run], after: Sequence[Run], asked: str, *, kind: Kind, stamp: Stamp) -> Tasks:
    """Return the scores of two models' runs of the same tasks; `asked` is the SHA-256 over what was asked."""
    pairs = list(zip(before, after, strict=True))
    answered = [item for pair in pairs for item in _answered(*pair)]
    told = "; ".join(f"{run.task} version {run.version or 'unknown'} by {run.metric}" for run in before)
    conditions = stamp.conditions(DataSet(()), len(answered)).model_copy(
        update={"dataset": ", ".join(run.task for run in before), "split": HARNESS_SPLIT, "dataset_sha256": asked}
    )
    return Tasks(
        kind=kind,
        conditions=conditions.model_copy(update={"notes": (*conditions.notes, f"lm-eval: {told}")}),
        variant_sha256=stamp.variant_sha256,
        reference_sha256=stamp.reference_sha256,
        scores=tuple(_score(*pair) for pair in pairs),
        overall=overall_score(answered),
    )


def _score(before: Run, after: Run) -> TaskScore:
    score = overall_score(_answered(before, after), name=f"lm-eval {before.task}")
    return score.model_copy(update={"metric": HARNESS_METRICS.get(before.metric.partition(",")[0], "exact-match")})


def _answered(before: Run, after: Run) -> list[Answered]:
    return [
        Answered(before.task, right, after.right[number], None, None) for number, right in sorted(before.right.items())
    ]


def _too_long(tokens: int, context: int) -> errors.ContextTooLongError:
    return errors.ContextTooLongError(
        f"A question of the harness has {tokens:,} tokens, and the context ends at {context:,}.",
        why="Few-shot tasks put their examples before each question.",
        fix="Choose a task with shorter prompts, or one with fewer shots in a task file (.yaml) of your own.",
    )
