"""How alike two ways of running one variant are, by numbers that can be worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from phiforge import errors
from phiforge.evidence import Agreement, Kind
from phiforge.validation.agreement import Totals, agreement, compare, of_pairs
from phiforge.validation.drift import Reference
from unit.reporting import samples
from unit.validation.reference_outputs import reference_text

if TYPE_CHECKING:
    from phiforge.validation.agreement import Comparison

Floats = NDArray[np.float32]


def rows(seed: int, count: int = 7, vocab: int = 50) -> Floats:
    found: Floats = np.random.default_rng(seed).normal(0.3, 2, (count, vocab)).astype(np.float32)
    return found


def record(totals: Totals, comparison: Comparison) -> Agreement:
    return agreement(
        totals, comparison, kind=Kind.SURROGATE, conditions=samples.conditions(), variant_sha256="a" * 64, against="it",
        against_sha256="b" * 64,
    )  # fmt: skip


def test_equal_logits_agree() -> None:
    totals = of_pairs([(rows(0), rows(0))])
    assert (totals.relative_logit_error, totals.relative_spread_error, totals.kl_nats) == (0.0, 0.0, 0.0)
    assert totals.agreed == totals.rows == 7


def test_errors_are_what_numpy_makes_of_them() -> None:
    pairs = [(rows(0), rows(1)), (rows(2, 3), rows(3, 3))]
    totals = of_pairs(pairs)
    ours, theirs = (np.concatenate([pair[side] for pair in pairs]).astype(np.float64) for side in (0, 1))
    difference = ours - theirs
    assert totals.relative_logit_error == pytest.approx(np.linalg.norm(difference) / np.linalg.norm(theirs))
    assert totals.relative_spread_error == pytest.approx(np.sqrt((difference**2).mean()) / theirs.std())
    p, q = (np.exp(side) / np.exp(side).sum(axis=1, keepdims=True) for side in (theirs, ours))
    found = record(totals, "float32")
    assert found.positions == 10
    assert found.kl_mean_nats == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())
    assert found.top1_agreement_fraction == (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()


@given(shift=st.floats(-100, 100), scale=st.floats(0.01, 0.5))
def test_a_constant_in_all_logits_hides_no_error_from_the_spread(shift: float, scale: float) -> None:
    theirs = rows(0)
    ours = theirs + np.float32(scale) * rows(1)
    plain = of_pairs([(ours, theirs)])
    moved = of_pairs([(ours + np.float32(shift), theirs + np.float32(shift))])
    assert moved.relative_spread_error == pytest.approx(plain.relative_spread_error, rel=1e-2)
    if abs(shift) > 10:
        assert moved.relative_logit_error < plain.relative_logit_error


@given(small=st.floats(0.001, 1), factor=st.floats(1, 10))
def test_a_larger_difference_is_a_larger_error(small: float, factor: float) -> None:
    def both(scale: float) -> tuple[float, float]:
        totals = of_pairs([(rows(0) + np.float32(scale) * rows(1), rows(0))])
        return totals.relative_logit_error, totals.relative_spread_error

    assert all(one <= other * 1.001 for one, other in zip(both(small), both(small * factor), strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_no_number_is_refused(value: float) -> None:
    ours = rows(0)
    ours[2, 5] = value
    with pytest.raises(errors.VariantUnusableError, match="not finite"):
        of_pairs([(ours, rows(0))])


def test_logits_of_other_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        of_pairs([(rows(0, 7), rows(0, 6))])


@pytest.mark.parametrize("comparison", get_args(Agreement.model_fields["comparison"].annotation))
def test_only_what_has_the_same_weights_has_an_error(comparison: Comparison) -> None:
    found = record(of_pairs([(rows(0), rows(1))]), comparison)
    assert (found.relative_logit_error is None) == (comparison == "other-variant")
    assert (found.relative_spread_error is not None) == (comparison == "float32")
    assert (found.kind, found.against, found.against_sha256) == (Kind.SURROGATE, "it", "b" * 64)


def test_texts_are_compared_one_by_one() -> None:
    texts = tuple(reference_text(length, seed=length) for length in (4, 9))
    asked: list[list[int]] = []
    done: list[int] = []

    def ours(ids: object) -> Floats:
        asked.append(list(ids))  # type: ignore[call-overload]
        return rows(0, len(asked[-1]))

    totals = compare(Reference(100, texts), ours, lambda ids: rows(1, len(ids)), done.append)
    assert asked == [text.tokens.tolist() for text in texts]
    assert done == [1, 2]
    assert totals.rows == 13
