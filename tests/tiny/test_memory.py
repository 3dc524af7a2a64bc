"""Two layers of the real Phi-4-mini's widths and vocabulary, built under the memory limits of the whole model.

A layer's memory does not depend on the number of layers, so what holds here holds for all 32; `make bench-scale`
measures those.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import scale
from bench.real_shapes import write_real_shape

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    """No more cores for what the test starts: each thread has memory of its own."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:2])
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real_shape(tmp_path_factory.mktemp("wide") / "wide", "phi-4-mini", layers=2)


@pytest.mark.parametrize("name", ["k-quant", pytest.param("gptq", marks=pytest.mark.long)])
def test_a_build_stays_below_its_limit_and_near_its_prediction(name: str, checkpoint: Path, tmp_path: Path) -> None:
    row = scale.run_job(name, checkpoint, tmp_path, few_tokens=True)
    assert row.status == 0, (tmp_path / name / "log.txt").read_text(encoding="utf-8")
    assert row.limit_gib is not None
    assert row.predicted_bytes is not None
    assert row.peak_anon_bytes < row.limit_gib * scale.GIB
    assert row.peak_anon_bytes == pytest.approx(row.predicted_bytes, rel=0.25)
    assert row.output_bytes > 300_000_000
