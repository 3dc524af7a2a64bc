"""Drift's numbers against plain NumPy over the whole vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge import errors
from phiforge.validation.drift import (
    Reference,
    ReferenceText,
    kl_coarse,
    log_softmax,
    position_edges,
    score,
    score_text,
)
from phiforge.validation.statistics import interval_of_blocked_percentile

VOCAB = 40


def make_logits(seed: int, rows: int, scale: float = 3.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(rows, VOCAB)) * scale).astype(np.float32)


def reference_of(logits: NDArray[np.float32], tokens: NDArray[np.int32], top_k: int) -> ReferenceText:
    """What the original would have been stored as, had it these logits."""
    logs = log_softmax(logits)
    ids = np.argsort(-logs, axis=1, kind="stable")[:, :top_k]
    rest = logs.copy()
    np.put_along_axis(rest, ids, -np.inf, axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.exp(rest).sum(axis=1))
    true = np.take_along_axis(logs[:-1], tokens[1:, None].astype(np.int64), axis=1)[:, 0]
    return ReferenceText(
        tokens=tokens,
        top_ids=ids.astype(np.int32),
        top_log_probabilities=np.take_along_axis(logs, ids, axis=1).astype(np.float32),
        tail_log_mass=tail.astype(np.float32),
        true_log_probability=true.astype(np.float32),
    )


def tokens_of(seed: int, count: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.int32)


def coarse(reference: ReferenceText, log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    return kl_coarse(reference.top_ids, reference.top_log_probabilities, reference.tail_log_mass, log_q)


def full_kl(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float64]:
    log_p, log_q = log_softmax(p), log_softmax(q)
    total: NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return total


seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(seed=seeds, other=seeds, top_k=st.integers(1, VOCAB), scale=st.floats(0.01, 30))
def test_coarse_kl_is_between_zero_and_the_full_kl(seed: int, other: int, top_k: int, scale: float) -> None:
    p, q = make_logits(seed, 6, scale), make_logits(other, 6, scale)
    kl = coarse(reference_of(p, tokens_of(seed, 6), top_k), log_softmax(q))
    assert (kl >= 0).all()
    assert (kl <= full_kl(p, q) * (1 + 1e-5) + 1e-5).all()


@settings(deadline=None, max_examples=30)
@given(seed=seeds, top_k=st.integers(1, VOCAB), scale=st.floats(0.01, 30))
def test_equal_distributions_have_no_kl(seed: int, top_k: int, scale: float) -> None:
    p = make_logits(seed, 6, scale)
    assert coarse(reference_of(p, tokens_of(seed, 6), top_k), log_softmax(p)).max() < 1e-9


@settings(deadline=None, max_examples=30)
@given(seed=seeds, other=seeds, shift=st.floats(-50, 50))
def test_shifting_all_logits_changes_nothing(seed: int, other: int, shift: float) -> None:
    reference = reference_of(make_logits(seed, 6), tokens_of(seed, 6), 8)
    q = make_logits(other, 6).astype(np.float64)
    np.testing.assert_allclose(
        score_text(reference, q).kl_nats, score_text(reference, q + shift).kl_nats, rtol=1e-9, atol=1e-12
    )


def test_the_whole_vocabulary_as_top_k_gives_the_full_kl() -> None:
    p, q = make_logits(1, 9), make_logits(2, 9)
    kl = coarse(reference_of(p, tokens_of(1, 9), VOCAB), log_softmax(q))
    np.testing.assert_allclose(kl, full_kl(p, q), rtol=1e-5)


def test_a_tiny_tail_is_not_lost() -> None:
    """A tail of e^-60 would vanish in 1 - sum of the others."""
    logits = np.zeros((1, VOCAB), dtype=np.float32)
    logits[0, 0] = 60.0
    reference = reference_of(logits, tokens_of(0, 1), 1)
    assert coarse(reference, log_softmax(logits))[0] == pytest.approx(0, abs=1e-12)
    assert np.isfinite(coarse(reference, log_softmax(logits)))


def test_score_of_several_texts_is_the_mean_over_all_positions() -> None:
    sizes = [150, 3, 70]
    p = [make_logits(i, n) for i, n in enumerate(sizes)]
    q = [make_logits(10 + i, n) for i, n in enumerate(sizes)]
    tokens = [tokens_of(i, n) for i, n in enumerate(sizes)]
    answers = {tuple(t.tolist()): logits for t, logits in zip(tokens, q, strict=True)}
    texts = tuple(reference_of(a, t, VOCAB) for a, t in zip(p, tokens, strict=True))
    told: list[int] = []
    numbers = score(Reference(VOCAB, texts), lambda ids: answers[tuple(ids)], switch=100, on_text=told.append)
    kl = np.concatenate([full_kl(a, b)[:-1] for a, b in zip(p, q, strict=True)])
    assert numbers.positions == sum(sizes) - len(sizes) == len(kl)
    assert numbers.blocks == 3 + 1 + 2
    assert numbers.kl_nats.mean == pytest.approx(kl.mean(), rel=1e-5)
    assert numbers.kl_percentiles_nats.p99_9 == pytest.approx(np.percentile(kl, 99.9), rel=1e-5)
    assert numbers.perplexity_ratio == pytest.approx(numbers.perplexity_variant / numbers.perplexity_reference)
    assert sum(item.count for item in numbers.kl_by_position) == numbers.positions
    assert 100 in {item.start for item in numbers.kl_by_position}
    assert told == [1, 2, 3]
    following = np.concatenate([
        np.exp(log_softmax(b)[np.arange(n - 1), t[1:]]) - np.exp(log_softmax(a)[np.arange(n - 1), t[1:]])
        for a, b, t, n in zip(p, q, tokens, sizes, strict=True)
    ])  # fmt: skip
    assert numbers.true_token_change_fraction.mean == pytest.approx(following.mean(), rel=1e-4)
    assert numbers.true_token_change_rms_fraction == pytest.approx(np.sqrt((following**2).mean()), rel=1e-4)


def test_the_numbers_of_the_blocks_are_those_of_their_positions() -> None:
    """Texts of 150, 3 and 70 tokens predict 149, 2 and 69: blocks of 64, 64, 21, then 2, then 64 and 5 positions."""
    sizes = [150, 3, 70]
    texts, logits = [], {}
    for seed, size in enumerate(sizes):
        tokens, own = tokens_of(seed, size), make_logits(seed, size)
        texts.append(reference_of(own, tokens, 8))
        logits[tuple(tokens.tolist())] = own + make_logits(1000 + seed, size, 0.3)
    found = score(Reference(8, tuple(texts)), lambda ids: logits[tuple(ids)])
    assert found.block_positions == (64, 64, 21, 2, 64, 5)
    assert found.blocks == len(found.block_kl_nats) == len(found.block_top1_agreement_fraction) == 6
    second = score_text(texts[0], logits[tuple(texts[0].tokens.tolist())])
    assert found.block_kl_nats[1] == pytest.approx(second.kl_nats[64:128].mean())
    assert found.block_top1_agreement_fraction[2] == pytest.approx(second.top1_agrees[128:149].mean())
    weights = np.array(found.block_positions)
    for blocks, whole in (
        (found.block_kl_nats, found.kl_nats),
        (found.block_top1_agreement_fraction, found.top1_agreement_fraction),
    ):
        assert np.average(blocks, weights=weights) == pytest.approx(whole.mean)


def test_the_p99_has_the_interval_of_its_blocks() -> None:
    """Sixty texts of 64 positions, of blocks of 64: each text is a block."""
    texts, logits = [], {}
    for seed in range(60):
        tokens, own = tokens_of(seed, 65), make_logits(seed, 65)
        texts.append(reference_of(own, tokens, 8))
        logits[tuple(tokens.tolist())] = own + make_logits(1000 + seed, 65, 0.3)
    found = score(Reference(8, tuple(texts)), lambda ids: logits[tuple(ids)])
    kl = np.concatenate([score_text(text, logits[tuple(text.tokens.tolist())]).kl_nats[:-1] for text in texts])
    expected = interval_of_blocked_percentile(kl, np.repeat(np.arange(60), 64), 0.99)
    assert found.kl_p99_interval_nats == expected
    assert expected.low is not None
    assert expected.high is not None
    assert expected.low < found.kl_percentiles_nats.p99 < expected.high


def test_equal_models_agree_everywhere() -> None:
    p, tokens = make_logits(5, 80), tokens_of(5, 80)
    numbers = score(Reference(8, (reference_of(p, tokens, 8),)), lambda ids: p)
    assert numbers.top1_agreement_fraction.mean == 1
    assert numbers.kl_percentiles_nats.max < 1e-9
    assert numbers.perplexity_ratio == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = make_logits(1, 5)
    logits[2, 3] = bad
    with pytest.raises(errors.VariantUnusableError, match="scored"):
        score_text(reference_of(make_logits(1, 5), tokens_of(1, 5), 4), logits)


def test_logits_of_the_last_position_only_are_refused() -> None:
    with pytest.raises(errors.VariantUnusableError):
        score_text(reference_of(make_logits(1, 5), tokens_of(1, 5), 4), make_logits(1, 1))


def test_texts_of_one_token_are_no_data() -> None:
    text = reference_of(make_logits(1, 1), tokens_of(1, 1), 4)
    with pytest.raises(errors.EvidenceInvalidError):
        score(Reference(4, (text,)), lambda ids: make_logits(1, 1))


def test_position_edges_rise_and_have_the_switch() -> None:
    edges = position_edges(2048, 256)
    assert edges == sorted(set(edges))
    assert edges[0] == 0
    assert edges[-1] == 2048
    assert 256 in edges
    assert 12 <= len(edges) <= 20
    assert position_edges(5, 256) == [0, 5]
