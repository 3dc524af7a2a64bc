"""What `measure` decides before it measures."""

from __future__ import annotations

import pytest

from phiforge import errors
from phiforge.selection import Choice
from phiforge.verbs import measure


def _choice(*adapters: str) -> Choice:
    return Choice(
        variant="directml-int4",
        provider="dml",
        device="gpu",
        profiles=("directml-generic",),
        eligible=True,
        why="",
        profile="directml-generic",
        adapters=adapters,
    )


def test_of_two_devices_of_one_kind_the_first_is_measured() -> None:
    choice = _choice("NVIDIA GPU 0x2684 (1)", "NVIDIA GPU 0x2684 (2)")
    assert measure._device(choice, None) == measure._device(choice, 0) == 0


def test_another_one_is_refused_rather_than_measured_as_the_first() -> None:
    with pytest.raises(errors.FallbackError, match=r"cannot be measured on NVIDIA GPU 0x2684 \(2\)") as caught:
        measure._device(_choice("NVIDIA GPU 0x2684 (1)", "NVIDIA GPU 0x2684 (2)"), 1)
    assert "0 NVIDIA GPU 0x2684 (1), 1 NVIDIA GPU 0x2684 (2)" in caught.value.why


def test_one_that_is_not_there_is_refused() -> None:
    with pytest.raises(errors.FallbackError, match="There is no device 2"):
        measure._device(_choice("a", "b"), 2)
