"""Every broken checkpoint is refused with its own error, and the message says where the fault is."""

from __future__ import annotations

from pathlib import Path

import pytest

from broken.checkpoints import BROKEN_CHECKPOINTS, make_checkpoint
from phiforge import errors
from phiforge.checkpoint.inspect import inspect_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("name", BROKEN_CHECKPOINTS)
def test_is_refused_with_its_error(name: str, checkpoint: Path) -> None:
    broken = BROKEN_CHECKPOINTS[name]
    broken.break_it(checkpoint)

    with pytest.raises(errors.PhiforgeError) as caught:
        inspect_checkpoint(checkpoint)

    assert type(caught.value) is broken.error
    assert broken.names in caught.value.what
    for part in (caught.value.what, caught.value.why, caught.value.fix):
        assert part.endswith(".")
        assert "\n" not in part


def test_names_all_faults_of_a_configuration_at_once(checkpoint: Path) -> None:
    BROKEN_CHECKPOINTS["config-absurd"].break_it(checkpoint)

    with pytest.raises(errors.ConfigInvalidError, match=r"hidden_size is -64.*num_hidden_layers is 'two'") as caught:
        inspect_checkpoint(checkpoint)

    assert "rope_theta is 0" in caught.value.what


@pytest.mark.parametrize(
    ("name", "count", "row"), [("nan-weights", "1 value", "row 5"), ("inf-weights", "1 value", "row 5")]
)
def test_says_which_row_is_not_finite(name: str, count: str, row: str, checkpoint: Path) -> None:
    BROKEN_CHECKPOINTS[name].break_it(checkpoint)

    with pytest.raises(errors.WeightsNotFiniteError) as caught:
        inspect_checkpoint(checkpoint)

    assert count in caught.value.what
    assert row in caught.value.what


def test_finite_values_are_not_looked_at_without_a_scan(checkpoint: Path) -> None:
    BROKEN_CHECKPOINTS["nan-weights"].break_it(checkpoint)

    assert inspect_checkpoint(checkpoint, scan=False).tensors


def test_sound_checkpoint_is_accepted(checkpoint: Path) -> None:
    assert inspect_checkpoint(checkpoint).ignored_tensors == ()
