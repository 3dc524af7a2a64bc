"""Each probe passes on the right thing and fails on the wrong one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from phiforge import errors
from phiforge.runtime.trace import LastRows, Trace
from phiforge.validation import probes
from phiforge.validation.drift import ReferenceText, log_softmax

VOCAB, SWITCH = 30, 40


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def model(ids: Sequence[int], *, long: bool | None = None) -> NDArray[np.float32]:
    """A model whose distributions at all positions change when its text is longer than the switch."""
    long = len(ids) > SWITCH if long is None else long
    table = np.random.default_rng(1 if long else 0).normal(size=(VOCAB, VOCAB)).astype(np.float32) * 2
    chosen: NDArray[np.float32] = table[np.asarray(ids)]
    return chosen


def stored(ids: Sequence[int]) -> ReferenceText:
    logs = log_softmax(model(ids))
    return ReferenceText(
        tokens=np.asarray(ids, dtype=np.int32),
        top_ids=np.tile(np.arange(VOCAB, dtype=np.int32), (len(ids), 1)),
        top_log_probabilities=logs.astype(np.float32),
        tail_log_mass=np.full(len(ids), -np.inf, dtype=np.float32),
        true_log_probability=np.zeros(len(ids) - 1, dtype=np.float32),
    )


def tokens(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(3).integers(0, VOCAB, count)]


def trace(*, recomputes: bool) -> Trace:
    ids = tokens(SWITCH + 16)
    rows = [model(ids[:n], long=None if recomputes else False)[-1] for n in range(SWITCH - 8, len(ids))]
    logits = np.stack(rows)
    logits[1:, 7] = np.finfo(np.float32).min
    return Trace(tokens=tuple(ids), prompt_tokens=SWITCH - 8, logits=logits)


def test_tokenizer_probe_names_the_text() -> None:
    texts = ["one", "two"]
    assert probes.probe_tokenizer(encode, texts, [encode(text) for text in texts]).passed
    wrong = probes.probe_tokenizer(encode, texts, [encode("one"), [1]])
    assert not wrong.passed
    assert "'two'" in wrong.detail


def test_chat_template_probe_compares_text_and_ids() -> None:
    conversations = ([{"role": "user", "content": "hi"}],)

    def run(text: str, ids: list[int]) -> bool:
        return probes.probe_chat_template(lambda c: c[0]["content"], encode, conversations, [(text, ids)]).passed

    assert run("hi", encode("hi"))
    assert not run("<user>hi", encode("<user>hi"))
    assert not run("hi", [1, 2])


@pytest.mark.parametrize(
    ("own", "stopping", "passed"),
    [((1, 2), {1, 2}, True), ((1,), {1, 2}, False), ((1, 2), {1}, False), ((1, 2), {0, 1, 2}, False)],
)
def test_stop_ids_must_be_listed_and_heard(own: tuple[int, ...], stopping: set[int], passed: bool) -> None:
    assert probes.probe_stop_ids(own, (1, 2), lambda token: token in stopping, VOCAB).passed is passed


def test_stopping_compares_with_the_reference() -> None:
    good = [probes.ending([1, 2, 3], stopped=True)] * 100
    bad = [probes.ending([1, 2, 3, 4, 5] * 20, stopped=False)] * 100
    assert probes.probe_stopping(good, good).passed
    assert not probes.probe_stopping(good, bad).passed
    assert probes.probe_stopping(bad, bad).passed
    assert probes.probe_stopping(good, good[:97] + bad[:3]).passed


def test_a_few_answers_may_run_on_but_fewer_may_repeat_themselves() -> None:
    good = [probes.ending([1, 2, 3], stopped=True)] * 100
    long = [probes.ending(list(range(100)), stopped=False)] * 5
    looping = [probes.ending([1, 2] * 50, stopped=False)] * 5
    assert probes.probe_stopping(good, good[5:] + long).passed
    assert not probes.probe_stopping(good, good[5:] + looping).passed
    assert probes.ending([1, 2] * 50, stopped=True) == probes.Ending(stopped=True, loops=False)


@pytest.mark.parametrize(
    ("ids", "loop"),
    [([5, 5, 5, 5], True), ([9, 1, 2, 1, 2, 1, 2, 1, 2], True), ([1, 2, 1, 2, 1, 2], False), (list(range(99)), False)],
)
def test_loops_are_seen(ids: list[int], loop: bool) -> None:
    assert probes.is_loop(ids) is loop


def test_placement_probe_tells_the_strays() -> None:
    def refuse() -> int:
        raise errors.FallbackError("Stray.", why="2 Add on CPU", fix="Build again.")

    assert probes.probe_placement(lambda: 33).passed
    probe = probes.probe_placement(refuse)
    assert not probe.passed
    assert "2 Add on CPU" in probe.detail


def test_prefill_probe_sees_a_switch_that_is_off_by_one() -> None:
    prompts = [stored(tokens(SWITCH + offset)) for offset in probes.SWITCH_OFFSETS]
    assert probes.probe_switch_prefill(prompts, model, 0.001).passed
    assert not probes.probe_switch_prefill(prompts, lambda ids: model(ids, long=len(ids) >= SWITCH), 0.001).passed
    assert not probes.probe_switch_prefill(prompts, lambda ids: model(ids, long=False), 0.001).passed


def test_decode_probe_sees_a_cache_that_is_not_recomputed() -> None:
    def run(*, recomputes: bool) -> tuple[bool, bool]:
        probe = probes.probe_switch_decode(
            trace(recomputes=recomputes), model, switch=SWITCH, stop_ids=(7,), typical_kl_nats=0.001
        )
        return probe.passed, probe.blocking

    assert run(recomputes=True) == (True, False)
    assert run(recomputes=False) == (False, False)


def _last_rows(seed: int) -> LastRows:
    first, second = np.random.default_rng(seed).normal(size=(2, VOCAB)).astype(np.float32)
    return LastRows(prefill=first, step=second)


def test_pruned_head_probe_allows_rounding_in_a_prefill_alone() -> None:
    shipped = [_last_rows(0), _last_rows(1)]
    assert probes.probe_pruned_head([1, 2], shipped, shipped).passed
    rounded = [shipped[0], LastRows(prefill=shipped[1].prefill * np.float32(1 + 1e-6), step=shipped[1].step)]
    probe = probes.probe_pruned_head([1, 2], shipped, rounded)
    assert probe.passed
    assert "1 of 2 last tokens" in probe.detail
    assert "limit 1e-05" in probe.detail


@pytest.mark.parametrize(
    "twin",
    [
        _last_rows(2),
        LastRows(prefill=_last_rows(1).prefill, step=_last_rows(1).step * np.float32(1 + 1e-6)),
        LastRows(prefill=_last_rows(1).prefill * np.float32(1.001), step=_last_rows(1).step),
        LastRows(prefill=_last_rows(1).prefill * np.float32(np.nan), step=_last_rows(1).step),
    ],
)
def test_pruned_head_probe_fails_on_any_other_difference(twin: LastRows) -> None:
    assert not probes.probe_pruned_head([1, 2], [_last_rows(0), _last_rows(1)], [_last_rows(0), twin]).passed


def test_pruned_head_probe_needs_a_prompt() -> None:
    assert not probes.probe_pruned_head([], [], []).passed
