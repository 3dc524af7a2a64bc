"""Ask the original: its answers, its choices, its continuations, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.validation import probes
from phiforge.validation.choices import share_prompt
from phiforge.validation.free_running import Continuation
from phiforge.validation.portions import ANSWER_TOKENS, answer_limit, spread
from phiforge.validation.reference import compute_answers, compute_log_likelihoods, tokenize
from phiforge.validation.reference_outputs import (
    ReferenceAnswer,
    ReferenceChoice,
    ReferenceContinuation,
    ReferenceRefusal,
)
from phiforge.validation.refusals import refuses, unfinished_thinking
from phiforge.validation.suites import chosen, is_right

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.validation.reference import Answer, Source
    from phiforge.validation.refusals import RefusalPrompt
    from phiforge.validation.suites import Choice, Exercise

    Progress = Callable[[str, int, int], None]

# Prompts of free running: questions, and so many first tokens of texts. Both are spread over all there are, without a
# look at the answers: those chosen for their length would have shorter ones the second time.
QUESTION_PROMPTS, TEXT_PROMPTS, BEGINNING_TOKENS = 32, 32, 32
CONTINUATION_TOKENS = 128
# A refusal shows at the beginning of an answer.
REFUSAL_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How much is asked.

    Attributes:
        run_code: Whether tasks are asked whose judging runs what a model wrote.
        continuation_tokens: The most tokens of a greedy continuation.
    """

    run_code: bool = False
    continuation_tokens: int = CONTINUATION_TOKENS


DEFAULT_ASKING = Asking()


@dataclass(frozen=True, kw_only=True)
class Interview:
    """The original, and what it may be asked.

    Attributes:
        source: The checkpoint and the cache.
        config: Its config.
        context: The most tokens of a sequence.
        progress: Told of each step: (step, done, total).
    """

    source: Source
    config: ModelConfig
    context: int
    progress: Progress

    def answers(self, what: str, prompts: Sequence[list[int]], limits: Sequence[int]) -> list[Answer]:
        """Return the greedy answers to prompts."""
        if not prompts:
            return []
        return compute_answers(
            self.source, prompts, limits, self.config.stop_ids, switch=self.config.original_max_positions,
            on_answer=lambda done: self.progress(what, done, len(prompts)),
        )  # fmt: skip

    def limit(self, prompt: Sequence[int], most: int = ANSWER_TOKENS) -> int:
        """Return the most new tokens after a prompt."""
        return answer_limit(len(prompt), self.config.original_max_positions, self.context, most)


def ask_exercises(
    interview: Interview, exercises: Sequence[tuple[str, str, Exercise]], prompts: Sequence[list[int]]
) -> tuple[ReferenceAnswer, ...]:
    """Return exercises with the original's answers.

    Args:
        interview: Whom to ask.
        exercises: The suite, its format and the exercise.
        prompts: The token ids of each.
    """
    limits = [
        min(interview.limit(prompt), item.limit_tokens or ANSWER_TOKENS)
        for (_, _, item), prompt in zip(exercises, prompts, strict=True)
    ]
    answers = interview.answers("reference answers", prompts, limits)
    return tuple(
        ReferenceAnswer(
            task=suite,
            prompt=prompt,
            limit=limit,
            check=item.check,
            right=is_right(form, item.check, answer.text),
            tokens=len(answer.tokens),
            ending=probes.ending(answer.tokens, stopped=answer.stopped),
        )
        for (suite, form, item), prompt, limit, answer in zip(exercises, prompts, limits, answers, strict=True)
    )


def ask_choices(
    interview: Interview, choices: Sequence[tuple[str, Choice]], texts: Sequence[str], prompts: Sequence[list[int]]
) -> tuple[ReferenceChoice, ...]:
    """Return choices with what the original chooses; those that do not fit its context are left out.

    Args:
        interview: Whom to ask.
        choices: The suite and the choice.
        texts: The prompt of each, as text.
        prompts: The same as token ids.
    """
    wholes = [text + part for (_, item), text in zip(choices, texts, strict=True) for part in item.continuations]
    ids = iter(tokenize(interview.source, wholes, []).texts if wholes else ())
    parts = [
        share_prompt(prompt, [next(ids) for _ in item.continuations])
        for (_, item), prompt in zip(choices, prompts, strict=True)
    ]
    fitting = [
        (suite, item, prompt, rests)
        for (suite, item), (prompt, rests) in zip(choices, parts, strict=True)
        if len(prompt) + max(map(len, rests)) <= interview.context
    ]
    if not fitting:
        return ()
    values = compute_log_likelihoods(
        interview.source, [prompt for _, _, prompt, _ in fitting], [rests for _, _, _, rests in fitting],
        on_layer=lambda done, total: interview.progress("reference choices, layer by layer", done, total),
    )  # fmt: skip
    return tuple(
        ReferenceChoice(
            task=suite,
            prompt=prompt,
            continuations=rests,
            right=item.right,
            chosen=chosen(found, [len(rest) for rest in rests]),
        )
        for (suite, item, prompt, rests), found in zip(fitting, values, strict=True)
    )


def ask_continuations(
    interview: Interview, questions: Sequence[list[int]], texts: Sequence[list[int]], tokens: int
) -> tuple[ReferenceContinuation, ...]:
    """Return prompts with the original's greedy continuations.

    Args:
        interview: Whom to ask.
        questions: Token ids of prompts that ask something.
        texts: Token ids of texts, of which the beginnings are prompts.
        tokens: The most tokens of a continuation.
    """
    asking = [questions[index] for index in spread(len(questions), QUESTION_PROMPTS)]
    long = [ids[:BEGINNING_TOKENS] for ids in texts if len(ids) > BEGINNING_TOKENS]
    prompts = [*asking, *(long[index] for index in spread(len(long), TEXT_PROMPTS))]
    prompts = [prompt for prompt in prompts if len(prompt) < interview.context]
    limits = [interview.limit(prompt, tokens) for prompt in prompts]
    answers = interview.answers("reference continuations", prompts, limits)
    return tuple(
        ReferenceContinuation(prompt=prompt, limit=limit, continuation=Continuation(answer.tokens, answer.stopped))
        for prompt, limit, answer in zip(prompts, limits, answers, strict=True)
    )


def ask_refusals(
    interview: Interview, items: Sequence[RefusalPrompt], prompts: Sequence[list[int]]
) -> tuple[ReferenceRefusal, ...]:
    """Return prompts with whether the original refuses them.

    Where its thinking does not end within the few tokens that a refusal takes, it is asked again with more.

    Args:
        interview: Whom to ask.
        items: The prompts with their categories.
        prompts: The token ids of each.
    """
    fitting = [pair for pair in zip(items, prompts, strict=True) if len(pair[1]) < interview.context]
    asked = [prompt for _, prompt in fitting]
    limits = [interview.limit(prompt, REFUSAL_TOKENS) for prompt in asked]
    answers = interview.answers("reference refusals", asked, limits)
    again = [index for index, answer in enumerate(answers) if unfinished_thinking(answer.text)]
    longer = [interview.limit(asked[index]) for index in again]
    thought = interview.answers("reference refusals", [asked[index] for index in again], longer)
    for index, limit, answer in zip(again, longer, thought, strict=True):
        limits[index], answers[index] = limit, answer
    return tuple(
        ReferenceRefusal(category=item.category, prompt=prompt, limit=limit, refused=refuses(answer.text))
        for (item, prompt), limit, answer in zip(fitting, limits, answers, strict=True)
    )
