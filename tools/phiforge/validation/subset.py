"""Parts of what the original said: what travels in a package, and what fits a shorter context."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from phiforge.validation.drift import Reference, ReferenceText
from phiforge.validation.portions import answer_limit, spread
from phiforge.validation.probes import DECODE_STEPS, TAIL_POSITIONS
from phiforge.validation.samples import TEXTS
from phiforge.validation.suites import FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from phiforge.validation.reference_outputs import (
        ReferenceAnswer,
        ReferenceContinuation,
        ReferenceOutputs,
        ReferenceRefusal,
    )

# Questions that are answered where answers take long, evenly spread over all.
QUESTIONS = 200
# Prompts of free running, and prompts that may be refused, where generations take long.
PROMPTS = 8
# What a package carries of the distributions: so many positions, and the likeliest tokens of each.
POSITIONS, TOP_K = 2048, 64


def packaged_part(outputs: ReferenceOutputs, ask: Callable[[Sequence[Sequence[int]]], Reference]) -> ReferenceOutputs:
    """Return the part of what the original said that a package carries, the same whatever variants are in it.

    Texts are taken in their order, whole, until 2,048 positions are reached, and the last one is cut there; questions
    and choices are at most 200 each, evenly spread, none whose judging runs code; of the prompts around the longrope
    switch the scored rows remain.

    Args:
        outputs: All it said.
        ask: Gives the distributions over other texts, for where no text of `outputs` can be taken as it is.
    """
    chosen = first_texts(outputs.texts, POSITIONS, outputs.switch)
    texts = Reference(outputs.texts.top_k, tuple(text for _, text in chosen))
    outputs = without_code(outputs)
    if not chosen and outputs.texts.texts:
        texts = ask([outputs.texts.texts[0].tokens[:POSITIONS].tolist()])
    whole = {
        index for index, text in chosen if len(text.tokens) == len(outputs.tokenized[len(TEXTS) + index].ids)
    }  # a cut text is not told in full
    own, held_out = outputs.tokenized[: len(TEXTS)], outputs.tokenized[len(TEXTS) :]
    some = fewer_questions(outputs, QUESTIONS)
    around = outputs.around_switch
    asked, whole_count = (len(part.questions) + len(part.choices) for part in (some, outputs))
    kept, told = f"{len(texts.texts)} of {len(outputs.texts.texts)}", f"{asked} of {whole_count}"
    return replace(
        some,
        tokenized=(*own, *(item for index, item in enumerate(held_out) if index in whole)),
        texts=narrow(texts, TOP_K),
        around_switch=narrow(Reference(around.top_k, tuple(map(last_rows, around.texts))), TOP_K) if around else None,
        notes=(f"reference: the package's top-{TOP_K} of {kept} texts and its answers to {told} questions",),
    )


def fewer_questions(outputs: ReferenceOutputs, most: int) -> ReferenceOutputs:
    """Return the same with at most so many questions and so many choices, evenly spread, and their suites alone."""
    questions = tuple(outputs.questions[index] for index in spread(len(outputs.questions), most))
    choices = tuple(outputs.choices[index] for index in spread(len(outputs.choices), most))
    asked = {asked.task for asked in questions} | {item.task for item in choices}
    suites = tuple(suite for suite in outputs.suites if suite.name in asked)
    return replace(outputs, suites=suites, questions=questions, choices=choices)


def fewer_prompts(outputs: ReferenceOutputs, most: int) -> ReferenceOutputs:
    """Return the same with at most so many prompts of free running and so many that may be refused, evenly spread."""
    return replace(
        outputs,
        continued=tuple(outputs.continued[index] for index in spread(len(outputs.continued), most)),
        prompted=tuple(outputs.prompted[index] for index in spread(len(outputs.prompted), most)),
    )


def without_code(outputs: ReferenceOutputs) -> ReferenceOutputs:
    """Return the same without suites whose judging runs what a model wrote: whoever opens a package runs nothing."""
    code = {suite.name for suite in outputs.suites if FORMATS[suite.format].runs_code}
    return replace(
        outputs,
        suites=tuple(suite for suite in outputs.suites if suite.name not in code),
        questions=tuple(asked for asked in outputs.questions if asked.task not in code),
    )


def within(outputs: ReferenceOutputs, context: int) -> ReferenceOutputs:
    """Return what a variant of so much context can be held against.

    Left out are texts whose cut would be on the other side of the longrope switch, where the original says something
    else, and questions whose known answer does not fit. Continuations are cut.
    """
    texts = [
        text if len(text.tokens) <= context else cut_text(text, context)
        for text in outputs.texts.texts
        if not crosses(len(text.tokens), context, outputs.switch)
    ]
    reaches = outputs.switch is not None and outputs.switch + DECODE_STEPS <= context
    questions = (_question_within(asked, outputs.switch, context) for asked in outputs.questions)
    return replace(
        outputs,
        texts=Reference(outputs.texts.top_k, tuple(texts)),
        around_switch=outputs.around_switch if reaches else None,
        questions=tuple(asked for asked in questions if asked is not None),
        choices=tuple(
            item for item in outputs.choices if len(item.prompt) + max(map(len, item.continuations)) <= context
        ),
        continued=tuple(
            _continued_within(item, outputs.switch, context) for item in outputs.continued if len(item.prompt) < context
        ),
        prompted=tuple(item for item in outputs.prompted if _fits_whole(item, outputs.switch, context)),
    )


def _continued_within(item: ReferenceContinuation, switch: int | None, context: int) -> ReferenceContinuation:
    """A greedy continuation under a lower limit is the beginning of the same one."""
    limit = min(item.limit, answer_limit(len(item.prompt), switch, context))
    return replace(item, limit=limit, continuation=item.continuation.cut(limit))


def _fits_whole(item: ReferenceRefusal, switch: int | None, context: int) -> bool:
    return len(item.prompt) < context and item.limit <= answer_limit(len(item.prompt), switch, context)


def _question_within(asked: ReferenceAnswer, switch: int | None, context: int) -> ReferenceAnswer | None:
    if len(asked.prompt) >= context:
        return None
    limit = min(asked.limit, answer_limit(len(asked.prompt), switch, context))
    # An answer that ended before the limit would have ended so with the lower one too.
    fits = limit == asked.limit or (asked.ending.stopped and asked.tokens < limit)
    return replace(asked, limit=limit) if fits else None


def first_texts(reference: Reference, positions: int, switch: int | None) -> list[tuple[int, ReferenceText]]:
    """Return the first texts that have so many positions together, the last of them cut, each with its index.

    Left out are a text whose cut would be on the other side of the longrope switch, and one that predicts nothing.
    """
    chosen: list[tuple[int, ReferenceText]] = []
    room = positions
    for index, text in enumerate(reference.texts):
        if room < 2:
            break
        if len(text.tokens) > 1 and not crosses(len(text.tokens), room, switch):
            chosen.append((index, cut_text(text, room)))
            room -= len(chosen[-1][1].tokens)
    return chosen


def crosses(length: int, cut: int, switch: int | None) -> bool:
    """Return whether a text of this length would, when cut, be computed with other factors: short instead of long."""
    return switch is not None and cut <= switch < length


def cut_reference(reference: Reference, positions: int) -> Reference:
    """Return the first texts, the last of them cut, that have so many positions together."""
    return Reference(reference.top_k, tuple(text for _, text in first_texts(reference, positions, None)))


def token_line(reference: Reference) -> list[int]:
    """Return all texts' tokens, one after the other."""
    return [int(token) for text in reference.texts for token in text.tokens]


def cut_text(text: ReferenceText, length: int) -> ReferenceText:
    """Return the first tokens of a text with what the reference says of them."""
    return ReferenceText(
        tokens=text.tokens[:length],
        top_ids=text.top_ids[:length],
        top_log_probabilities=text.top_log_probabilities[:length],
        tail_log_mass=text.tail_log_mass[:length],
        true_log_probability=text.true_log_probability[: min(length, len(text.tokens)) - 1],
    )


def last_rows(text: ReferenceText) -> ReferenceText:
    """Return a text with the rows of its last positions alone, which the probe of the switch scores."""
    return ReferenceText(
        tokens=text.tokens,
        top_ids=text.top_ids[-TAIL_POSITIONS:],
        top_log_probabilities=text.top_log_probabilities[-TAIL_POSITIONS:],
        tail_log_mass=text.tail_log_mass[-TAIL_POSITIONS:],
        true_log_probability=text.true_log_probability[max(0, len(text.tokens) - TAIL_POSITIONS) :],
    )


def narrow(reference: Reference, top_k: int) -> Reference:
    """Return a reference with fewer likeliest tokens; the others join the rest of the vocabulary."""
    if reference.top_k <= top_k:
        return reference
    return Reference(top_k, tuple(_narrow(text, top_k) for text in reference.texts))


def _narrow(text: ReferenceText, top_k: int) -> ReferenceText:
    rest = np.concatenate([text.top_log_probabilities[:, top_k:], text.tail_log_mass[:, None]], axis=1)
    tail = np.logaddexp.reduce(rest.astype(np.float64), axis=1)
    return replace(
        text,
        top_ids=text.top_ids[:, :top_k],
        top_log_probabilities=text.top_log_probabilities[:, :top_k],
        tail_log_mass=tail.astype(np.float32),
    )
