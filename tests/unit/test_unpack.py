"""The embedding table that plain operators read: exact, and found again in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from phiforge import errors
from phiforge.graph.inspect import check_graph, inspect_graph
from phiforge.graph.unpack import Table, UnpackedTable, find_unpacked, unpack_rows
from phiforge.plan import WeightPlan
from phiforge.quantize import QuantSpec, pack

FLOATS = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16}


@dataclass(frozen=True)
class Made:
    """A table as arrays; `zero_points` is None where it is symmetric."""

    codes: NDArray[np.uint8]
    scales: NDArray[Any]
    zero_points: NDArray[np.uint8] | None
    spec: QuantSpec
    dtype: ir.DataType

    @property
    def rows(self) -> NDArray[Any]:
        """(code - zero point) * scale, rounded once: the product of two such numbers is exact in float64."""
        zero = self.spec.middle_code if self.zero_points is None else self.zero_points.astype(np.float64)[..., None]
        blocks = self.codes.astype(np.float64).reshape(*self.scales.shape, self.spec.block_size)
        wide = (blocks - zero) * self.scales.astype(np.float64)[..., None]
        rounded: NDArray[Any] = wide.astype(FLOATS[self.dtype]).reshape(self.codes.shape)
        return rounded


@st.composite
def tables(draw: st.DrawFn) -> Made:
    bits, size = draw(st.sampled_from([4, 8])), draw(st.sampled_from([16, 32, 64]))
    rows, blocks = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    symmetric, dtype = draw(st.booleans()), draw(st.sampled_from(sorted(FLOATS)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # 255 times as much must still be a float16.
    numbers = st.floats(-250, 250, width=16 if dtype is ir.DataType.FLOAT16 else 32)
    scales = draw(st.lists(numbers, min_size=rows * blocks, max_size=rows * blocks))
    return Made(
        codes=random.integers(0, 2**bits, (rows, blocks * size), dtype=np.uint8),
        scales=np.array(scales, dtype=FLOATS[dtype]).reshape(rows, blocks),
        zero_points=None if symmetric else random.integers(0, 2**bits, (rows, blocks), dtype=np.uint8),
        spec=QuantSpec(bits, size, symmetric=symmetric),
        dtype=dtype,
    )


def model_of(made: Made) -> ir.Model:
    """A graph that gives the table's rows of token ids."""
    spec = made.spec
    packed: dict[str, NDArray[Any]] = {"codes": pack(made.codes, spec.bits), "scales": made.scales}
    if made.zero_points is not None:
        packed["zero_points"] = pack(made.zero_points, spec.bits)
    values = {}
    for name, array in packed.items():
        tensor = ir.tensor(array, name=name)
        shape = ir.Shape(array.shape)
        values[name] = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "sequence"]))
    table = Table(
        codes=values["codes"], scales=values["scales"], zero_points=values.get("zero_points"), spec=spec,
        columns=made.codes.shape[1],
    )  # fmt: skip
    nodes = unpack_rows(table, ids, made.dtype)
    graph = ir.Graph(
        [ids], [nodes[-1].outputs[0]], nodes=nodes, initializers=list(values.values()), opset_imports={"": 21}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def rows_of(model: ir.Model, ids: NDArray[np.int64]) -> NDArray[Any]:
    (found,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"ids": ids})
    assert isinstance(found, np.ndarray)
    return found


def table(bits: int = 4, size: int = 32, blocks: int = 3, *, symmetric: bool = False) -> Made:
    """Five rows in float16 that a plan could ask for."""
    random = np.random.default_rng(0)
    return Made(
        codes=random.integers(0, 2**bits, (5, blocks * size), dtype=np.uint8),
        scales=random.normal(size=(5, blocks)).astype(np.float16),
        zero_points=None if symmetric else random.integers(0, 2**bits, (5, blocks), dtype=np.uint8),
        spec=QuantSpec(bits, size, symmetric=symmetric),
        dtype=ir.DataType.FLOAT16,
    )


@given(made=tables(), data=st.data())
def test_every_row_is_its_codes_times_its_scales_rounded_once(made: Made, data: st.DataObject) -> None:
    count = len(made.codes)
    shape = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4)))
    ids = np.random.default_rng(count).integers(0, count, shape, dtype=np.int64)
    model = model_of(made)
    found = rows_of(model, ids)
    assert found.dtype == FLOATS[made.dtype]
    np.testing.assert_array_equal(found, made.rows[ids])
    assert model.graph.outputs[0].dtype is made.dtype


@given(made=tables())
def test_a_table_is_found_again_with_all_that_it_is(made: Made) -> None:
    read = ir.from_proto(ir.to_proto(model_of(made)))
    assert find_unpacked(read.graph) == UnpackedTable(
        rows=made.codes.shape[0], columns=made.codes.shape[1], bits=made.spec.bits, block_size=made.spec.block_size,
        symmetric=made.spec.symmetric,
    )  # fmt: skip


def test_only_codes_of_the_tokens_asked_for_become_floats() -> None:
    """Nothing as large as the table is made: a Gather takes the rows first."""
    model = model_of(table())
    readers = {node.op_type for value in model.graph.initializers.values() for node in value.consumers()}
    assert readers == {"Gather"}


def test_no_operator_is_one_that_directml_lacks() -> None:
    model = model_of(table())
    assert {node.domain for node in model.graph} == {""}
    assert {node.op_type for node in model.graph} == {
        "Cast", "Concat", "Constant", "Floor", "Gather", "Mul", "Reshape", "Slice", "Sub", "Unsqueeze",
    }  # fmt: skip


def test_a_graph_without_an_unpacked_table_has_none() -> None:
    model = model_of(table())
    for node in model.graph:
        node.name = f"other/{node.name}"
    assert find_unpacked(model.graph) is None


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_check_of_a_graph_counts_its_table(tmp_path: Path, bits: int, symmetric: bool) -> None:
    path = tmp_path / "model.onnx"
    ir.save(model_of(table(bits, symmetric=symmetric)), path, external_data="model.onnx.data", size_threshold_bytes=0)
    facts = inspect_graph(path)
    (node,) = facts.quantized
    assert (node.operator, node.rows, node.columns) == ("Gather", 5, 96)

    def plan(bits: int, rows: int = 5, **options: Any) -> list[WeightPlan]:
        spec = QuantSpec(bits, 32, **{"symmetric": symmetric, **options})
        return [WeightPlan(module="model.embed_tokens", rows=rows, columns=96, spec=spec)]

    check_graph(facts, plan(bits), tied=False)
    for other in ([], plan(12 - bits), plan(bits, rows=6), plan(bits, symmetric=not symmetric)):
        with pytest.raises(errors.GraphMismatchError, match="what the plan says"):
            check_graph(facts, other, tied=False)
