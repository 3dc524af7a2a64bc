"""Ranges of activations: the integers that stand for a value, what is refused, and the file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.activations import (
    ACTIVATIONS_FILE,
    CODES,
    EMBEDDING,
    LOGITS,
    SITES,
    Range,
    check_ranges,
    expected_names,
    layer_site,
    load_ranges,
    save_ranges,
)

VALUES = st.floats(-1e30, 1e30).filter(lambda value: value == 0 or abs(value) > 1e-30)
RANGES = st.tuples(VALUES, VALUES).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Range(*sorted(pair)))


def decode(code: int, scale: float, zero_point: int) -> float:
    return (code - zero_point) * scale


def code_of(value: float, scale: float, zero_point: int) -> int:
    return min(max(round(value / scale) + zero_point, 0), CODES)


def sound(layers: int) -> dict[str, Range]:
    return dict.fromkeys(expected_names(layers), Range(-1.0, 2.0))


@given(RANGES, st.floats(0, 1), st.floats(1, 4))
def test_every_value_of_a_range_comes_back_within_half_a_step(found: Range, share: float, headroom: float) -> None:
    value = found.minimum * (1 - share) + found.maximum * share
    scale, zero_point = found.quantizer(headroom)
    error = abs(decode(code_of(value, scale, zero_point), scale, zero_point) - value)
    assert error <= scale * (0.5 + 1e-9 * CODES)


@given(RANGES, st.floats(1, 4))
def test_zero_is_exact(found: Range, headroom: float) -> None:
    scale, zero_point = found.quantizer(headroom)
    assert 0 <= zero_point <= CODES
    assert decode(code_of(0.0, scale, zero_point), scale, zero_point) == 0.0


@pytest.mark.parametrize(
    ("found", "zero_point"), [(Range(2.0, 5.0), 0), (Range(-5.0, -2.0), CODES), (Range(-1.0, 1.0), 32768)]
)
def test_a_range_is_widened_to_take_in_zero(found: Range, zero_point: int) -> None:
    scale, zero = found.quantizer()
    assert zero == zero_point
    assert scale == pytest.approx((max(found.maximum, 0) - min(found.minimum, 0)) / CODES)


def test_headroom_widens_and_magnitude_is_the_larger_end() -> None:
    assert Range(-3.0, 2.0).magnitude == 3.0
    assert Range(-3.0, 2.0).quantizer(1.5)[0] == pytest.approx(1.5 * Range(-3.0, 2.0).quantizer()[0])


def test_a_complete_calibration_is_taken() -> None:
    names = expected_names(2)
    assert names[0] == EMBEDDING and names[-1] == LOGITS
    assert len(names) == len(set(names)) == 2 * len(SITES) + 3
    check_ranges(sound(2), 2)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "layers.1.gate is empty: no calibration text reached it"),
        (Range(math.inf, -math.inf), "layers.1.gate is empty: no calibration text reached it"),
        (Range(math.nan, math.nan), "layers.1.gate is infinite or no number: from nan to nan"),
        (Range(-math.inf, 3.0), "layers.1.gate is infinite or no number: from -inf to 3.0"),
        (Range(0.0, 0.0), "layers.1.gate is constant: 0.0 everywhere"),
    ],
)
def test_what_no_quantizer_can_be_made_from_is_named(found: Range | None, why: str) -> None:
    ranges = sound(2)
    del ranges[layer_site(1, "gate")]
    if found:
        ranges[layer_site(1, "gate")] = found
    with pytest.raises(errors.ActivationRangeError) as caught:
        check_ranges(ranges, 2)
    assert caught.value.what == "1 activation range cannot be quantized."
    assert caught.value.why == f"{why}."


def test_three_faults_are_named_and_the_rest_counted() -> None:
    with pytest.raises(errors.ActivationRangeError) as caught:
        check_ranges({}, 1)
    assert caught.value.what == "18 activation ranges cannot be quantized."
    assert caught.value.why.startswith("embedding is empty")
    assert caught.value.why.endswith("layers.0.qkv is empty: no calibration text reached it, and 15 more.")


@given(st.dictionaries(st.sampled_from(expected_names(2)), RANGES))
def test_ranges_survive_their_file(tmp_path_factory: pytest.TempPathFactory, ranges: dict[str, Range]) -> None:
    path = tmp_path_factory.mktemp("ranges") / ACTIVATIONS_FILE
    save_ranges(ranges, 8192, path)
    assert load_ranges(path) == ranges


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"\xff", b'{"tokens": 1}', b'{"tokens": 1, "ranges": {"a": [1]}}']
)
def test_a_broken_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / ACTIVATIONS_FILE
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.ActivationRangeError, match="cannot be read"):
        load_ranges(path)
