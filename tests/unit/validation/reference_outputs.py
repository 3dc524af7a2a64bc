"""What an original might have said, small enough to look at."""

from __future__ import annotations

import numpy as np

from phiforge.evidence import TaskSource
from phiforge.validation.drift import Reference, ReferenceText, log_softmax
from phiforge.validation.free_running import Continuation
from phiforge.validation.probes import SWITCH_OFFSETS, Ending
from phiforge.validation.reference_outputs import (
    Chat,
    ReferenceAnswer,
    ReferenceChoice,
    ReferenceContinuation,
    ReferenceOutputs,
    ReferenceRefusal,
    SuiteFacts,
    Tokenized,
)
from phiforge.validation.samples import TEXTS
from phiforge.validation.texts import DataFile, DataSet
from phiforge.variant import CheckpointFacts

VOCAB, FINGERPRINT = 300, "ab" * 32
CHECKPOINT = CheckpointFacts(name="nano", family="phi-4-nano", fingerprint=FINGERPRINT, parameters=10, bytes=20)


def reference_text(length: int, *, top_k: int = 100, seed: int = 0) -> ReferenceText:
    """Random distributions over random tokens, as the original gives them."""
    random = np.random.default_rng(seed)
    logs = log_softmax(random.normal(scale=3, size=(length, VOCAB)))
    order = np.argsort(-logs, axis=1)
    top = np.take_along_axis(logs, order, axis=1)
    tokens = random.integers(0, VOCAB, length).astype(np.int32)
    return ReferenceText(
        tokens=tokens,
        top_ids=order[:, :top_k].astype(np.int32),
        top_log_probabilities=top[:, :top_k].astype(np.float32),
        tail_log_mass=np.log(np.exp(top[:, top_k:]).sum(axis=1)).astype(np.float32),
        true_log_probability=logs[np.arange(length - 1), tokens[1:]].astype(np.float32),
    )


def asked(number: int, *, prompt: int = 5, limit: int = 64, tokens: int = 3, stopped: bool = True) -> ReferenceAnswer:
    """One question of two tasks in turn."""
    return ReferenceAnswer(
        task=f"task-{number % 2}",
        prompt=list(range(number % 7, number % 7 + prompt)),
        limit=limit,
        check=f'{{"answer": "{number}"}}',
        right=number % 3 > 0,
        tokens=tokens,
        ending=Ending(stopped=stopped, loops=not stopped),
    )


def suite(name: str, form: str = "exact-match") -> SuiteFacts:
    """A suite of this name."""
    source = TaskSource(file=f"{name}.jsonl", format=form, split="held-out", licence="MIT", sha256="5" * 64)
    metric = "log-likelihood" if form == "mmlu" else "code" if form == "humaneval" else "exact-match"
    return SuiteFacts(name=name, format=form, metric=metric, source=source, notes=(f"{name}: as it is",))  # type: ignore[arg-type]


def compared(number: int, *, prompt: int = 5) -> ReferenceChoice:
    """One choice of three continuations."""
    return ReferenceChoice(
        task="choices",
        prompt=list(range(prompt)),
        continuations=[[1], [2, number % 100], [3]],
        right=number % 3,
        chosen=1,
    )


def continued(number: int, *, prompt: int = 4, limit: int = 8, stopped: bool = True) -> ReferenceContinuation:
    """One continuation, which ends two tokens before its limit or at it."""
    made = tuple(range(number % 9, number % 9 + (limit - 2 if stopped else limit)))
    return ReferenceContinuation(prompt=list(range(prompt)), limit=limit, continuation=Continuation(made, stopped))


def prompted(number: int, *, limit: int = 64) -> ReferenceRefusal:
    """One prompt of two categories in turn."""
    return ReferenceRefusal(
        category=f"category-{number % 2}", prompt=[1, 2, number], limit=limit, refused=number % 2 == 0
    )


def outputs(*lengths: int, questions: int = 10, switch: int | None = None) -> ReferenceOutputs:
    """What an original said of texts of these lengths."""
    texts = tuple(reference_text(length, seed=seed) for seed, length in enumerate(lengths, start=1))
    own = tuple(Tokenized(text, [1, 2]) for text in TEXTS)
    around = None
    if switch is not None:
        line = reference_text(switch + max(SWITCH_OFFSETS), seed=99)
        prompts = (line.tokens[: switch + offset] for offset in SWITCH_OFFSETS)
        rows = (reference_text(len(prompt), seed=len(prompt)) for prompt in prompts)
        around = Reference(
            100, tuple(ReferenceText(**{**vars(row), "tokens": line.tokens[: len(row.tokens)]}) for row in rows)
        )
    return ReferenceOutputs(
        fingerprint=FINGERPRINT,
        vocab_size=VOCAB,
        stop_ids=(7, 9),
        switch=switch,
        text_set=DataSet((DataFile("text.jsonl", "1" * 64),)),
        task_set=DataSet((DataFile("a.jsonl", "2" * 64), DataFile("b.jsonl", "3" * 64))),
        tokenized=(*own, *(Tokenized(f"text {n}", text.tokens.tolist()) for n, text in enumerate(texts))),
        chats=(Chat([{"role": "user", "content": "Grüße 😀"}], "<|user|>Grüße 😀", [3, 4]),),
        texts=Reference(100, texts),
        around_switch=around,
        prompt_set=DataSet((DataFile("refusals.jsonl", "4" * 64),)),
        suites=(suite("task-0"), suite("task-1"), suite("choices", "mmlu")),
        questions=tuple(asked(number) for number in range(questions)),
        choices=tuple(compared(number) for number in range(questions)),
        continued=tuple(continued(number, stopped=number % 2 == 0) for number in range(6)),
        prompted=tuple(prompted(number) for number in range(4)),
    )
