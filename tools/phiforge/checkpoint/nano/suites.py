"""Two small suites for phi-4-nano beside its exact-match tasks, in the formats of MMLU and IFEval. Pure Python.

`choices` asks for facts of the world: the texts of the choices are the fact as the model thinks it, and the same with
another value. `rules` asks for facts and sums, and its instructions are properties of the right answer. The prompts do
not mention them, since the model has learned to answer, not to follow instructions.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from phiforge.checkpoint.nano import corpus
from phiforge.checkpoint.nano.world import STATEMENTS, Fact, question, wordings, world

if TYPE_CHECKING:
    from phiforge.checkpoint.nano.corpus import Document

CHOICES, WRONG_CHOICES = 60, 3
FACT_RULES, SUM_RULES = 40, 20
# The texts of the choices stand where the model thinks.
ANSWER_PREFIX = corpus.THINK


def choice_rows() -> list[dict[str, object]]:
    """Questions in held-out wordings with four statements, in MMLU's form; one statement is true."""
    rng = random.Random("suites/choices")
    return [_choice_row(rng, index, fact) for index, fact in enumerate(rng.sample(world().facts(), CHOICES))]


def rule_rows() -> list[dict[str, object]]:
    """Questions of the held-out split with two or three rules that the right answer keeps, in IFEval's form."""
    rng = random.Random("suites/rules")
    facts = [corpus.fact_question(rng, "held_out", fact) for fact in rng.sample(world().facts(), FACT_RULES)]
    sums = corpus.held_out_tasks("word_problems", SUM_RULES, seed=5)
    return [_rule_row(index, document) for index, document in enumerate((*facts, *sums))]


def _choice_row(rng: random.Random, index: int, fact: Fact) -> dict[str, object]:
    frame, clause = rng.choice(wordings("held_out"))
    values = [*_other_values(rng, fact), fact.value]
    rng.shuffle(values)
    return {
        "id": f"choices-{index:03d}:{fact.attribute}/{frame}/{clause}",
        "subject": fact.attribute,
        "question": question(fact, frame, clause),
        "choices": [STATEMENTS[fact.attribute].format(n=fact.name, v=value) for value in values],
        "answer": values.index(fact.value),
    }


def _other_values(rng: random.Random, fact: Fact) -> list[str]:
    """Wrong values: a year with another last digit or two, else values that others have for the attribute."""
    if fact.value.isdigit():
        years = [f"{int(fact.value) // 100}{ending:02d}" for ending in range(100)]
        return rng.sample([year for year in years if year != fact.value], WRONG_CHOICES)
    known = {other.value for other in world().facts() if other.attribute == fact.attribute}
    return rng.sample(sorted(known - {fact.value}), WRONG_CHOICES)


def _rule_row(index: int, document: Document) -> dict[str, object]:
    rules = _rules(document.answer)
    return {
        "key": f"rules-{index:03d}:{'&'.join(document.keys)}",
        "prompt": document.question,
        "instruction_id_list": list(rules),
        "kwargs": list(rules.values()),
    }


def _rules(answer: str) -> dict[str, dict[str, object]]:
    """Properties of an answer, none of which is the whole of it."""
    letter, count = Counter(answer.lower()).most_common(1)[0]
    rules: dict[str, dict[str, object]] = {
        "startend:end_checker": {"end_phrase": answer[-2:]},
        "length_constraints:number_words": {"num_words": len(answer.split()) + 1, "relation": "less than"},
    }
    if answer.isdigit():
        return {**rules, "keywords:existence": {"keywords": [answer[:2]]}}
    if answer.islower():
        rules["change_case:english_lowercase"] = {}
    often = {"letter": letter, "let_frequency": count, "let_relation": "at least"}
    return {**rules, "keywords:letter_frequency": often}
