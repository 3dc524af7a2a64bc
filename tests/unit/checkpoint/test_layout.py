from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from phiforge.checkpoint.layout import Writer, read_layout

Shapes = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5)), min_size=1, max_size=4)


@given(shapes=Shapes, step=st.integers(1, 3), backwards=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_blocks_written_in_any_order_make_the_file(
    tmp_path: Path, shapes: list[tuple[int, int]], step: int, backwards: bool
) -> None:
    arrays = {f"t{i}": np.random.default_rng(i).random(shape, dtype=np.float32) for i, shape in enumerate(shapes)}
    path = tmp_path / "x.safetensors"
    blocks = [(name, start) for name, array in arrays.items() for start in range(0, len(array), step)]
    with Writer(path, {name: ("F32", array.shape) for name, array in arrays.items()}) as writer:
        for name, start in reversed(blocks) if backwards else blocks:
            writer.write(name, start, arrays[name][start : start + step])
    loaded = load_file(path)
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
    raw = path.read_bytes()
    for name, slot in read_layout(path).items():
        assert raw[slot.offset : slot.offset + slot.length] == arrays[name].tobytes()


def test_rows_beyond_the_tensor_are_refused(tmp_path: Path) -> None:
    with Writer(tmp_path / "x", {"a": ("U8", (2, 4))}) as writer:
        writer.write("a", 0, np.zeros((2, 4), np.uint8))
        with pytest.raises(ValueError, match="overrun"):
            writer.write("a", 1, np.zeros((2, 4), np.uint8))
