"""The harness's two models: prompts, limits, log-likelihoods, and the record of before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from phiforge import errors
from phiforge.evidence import Kind, dump_evidence, parse_evidence
from phiforge.validation.harness import HarnessAnswerer, tasks_of_runs
from phiforge.validation.held_out import Stamp
from phiforge.validation.suites.lm_eval import Prompt, Run


class Letters:
    """A tokenizer with one token for each letter."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]


def logits_of(ids: Sequence[int]) -> NDArray[np.float32]:
    """After each letter the next one of the alphabet has nine times the probability of all others together."""
    rows = np.zeros((len(ids), 26), dtype=np.float32)
    rows[np.arange(len(ids)), (np.asarray(ids) + 1) % 26] = np.log(9 * 25)
    return rows


def answerer(written: list[tuple[list[int], int]] | None = None, *, context: int = 20) -> HarnessAnswerer:
    def write(prompts: Sequence[list[int]], limits: Sequence[int]) -> list[str]:
        if written is not None:
            written.extend(zip(prompts, limits, strict=True))
        return ["x"] * len(prompts)

    return HarnessAnswerer(
        name="a",
        original=Letters(),  # type: ignore[arg-type]
        first_token=25,
        switch=10,
        context=context,
        write=write,
        logits_of=logits_of,
    )


def test_log_likelihoods_are_sums_and_the_greedy_one_is_told() -> None:
    likely, unlikely = np.log(0.9), np.log(0.1 / 25)
    found = answerer().log_likelihoods([("ab", "cd"), ("ab", "cx"), ("ab", "z"), ("", "ab"), ("", "b"), ("", "")])
    assert [greedy for _, greedy in found] == [True, False, False, True, False, True]
    expected = [2 * likely, likely + unlikely, unlikely, 2 * likely, unlikely, 0]
    assert [value for value, _ in found] == pytest.approx(expected, abs=1e-5)


def test_prompts_go_with_limits_that_the_context_holds() -> None:
    written: list[tuple[list[int], int]] = []
    prompts = [
        Prompt(text=text, until=(), limit_tokens=limit) for text, limit in (("abc", 4), ("abc", None), ("a" * 15, None))
    ]
    assert answerer(written).generate(prompts) == ["x"] * 3
    # The second ends at the longrope switch, the third is beyond it and ends with the context.
    assert [limit for _, limit in written] == [4, 7, 5]


def test_the_hash_is_of_what_was_asked() -> None:
    one, same, other = answerer(), answerer(), answerer()
    for item, text in ((one, "b"), (same, "b"), (other, "c")):
        item.log_likelihoods([("a", text)])
        item.generate([Prompt(text="abc", until=(), limit_tokens=1)])
    assert one.asked.hexdigest() == same.asked.hexdigest() != other.asked.hexdigest()


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(errors.ContextTooLongError, match="has 20 tokens"):
        answerer().generate([Prompt(text="a" * 20, until=(), limit_tokens=None)])
    with pytest.raises(errors.ContextTooLongError, match="has 21 tokens"):
        answerer().log_likelihoods([("a" * 20, "b")])


def test_runs_become_scores_question_by_question() -> None:
    before = [
        Run(task="sums", metric="exact_match,none", right={0: True, 1: False, 2: True}, version="1"),
        Run(task="labels", metric="acc,none", right={0: True}, version=""),
    ]
    after = [
        Run(task="sums", metric="exact_match,none", right={2: False, 1: True, 0: True}, version="1"),
        Run(task="labels", metric="acc,none", right={0: True}, version=""),
    ]
    found = tasks_of_runs(
        before, after, "d" * 64, kind=Kind.MEASURED, stamp=Stamp("cpu", 2, "a" * 64, "b" * 64, ("so",))
    )
    sums, labels = found.scores
    assert (sums.task, sums.metric, sums.flips_to_wrong, sums.flips_to_right) == ("lm-eval sums", "exact-match", 1, 1)
    assert (labels.task, labels.metric) == ("lm-eval labels", "log-likelihood")
    assert found.overall.questions == 4
    assert found.conditions.notes == (
        "so",
        "lm-eval: sums version 1 by exact_match,none; labels version unknown by acc,none",
    )
    assert parse_evidence(dump_evidence(found), "tasks-lm-eval.json").conditions == found.conditions
