"""The tables of what providers take: their schema, the committed ones, and a second reading of them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.graph.conformance import ProviderTable, check_conformance, load_provider
from phiforge.graph.conformance.table import DTYPES
from unit.graphs import HALF, LONG, MICROSOFT, Graph

PROVIDERS = Path(__file__).parents[2] / "targets" / "providers"
TABLES = {path.stem: load_provider(path) for path in sorted(PROVIDERS.glob("*.toml"))}


def test_tables_have_a_source_for_what_they_say() -> None:
    assert set(TABLES) == {"directml", "webgpu"}
    assert {table.provider for table in TABLES.values()} == {"dml", "webgpu"}
    assert all(len(table.operator) > 60 for table in TABLES.values())
    assert all(table.source for table in TABLES.values())


@pytest.mark.parametrize("name", TABLES)
def test_rows_fit_the_operators_of_onnx(name: str) -> None:
    """Versions are versions, there are as many inputs, and some dtype of each place is allowed there."""
    known = {dtype: {"float32": "float", "float64": "double"}.get(dtype, dtype) for dtype in DTYPES}
    for row in TABLES[name].operator:
        if row.domain or row.name == "SimplifiedLayerNormalization":
            assert row.since == [1]
            continue
        for since in row.since:
            schema = onnx.defs.get_schema(row.name, since)
            assert schema.since_version == since, row
            for formal, entries in ((schema.inputs, row.inputs), (schema.outputs, row.outputs)):
                assert len(entries) <= len(formal), row
                for parameter, entry in zip(formal, entries, strict=False):
                    taken = TABLES[name].expand(entry)
                    assert taken is not None
                    told = {f"tensor({known[dtype]})" for dtype in known if DTYPES[dtype] in taken}
                    assert told & set(parameter.types), (row, parameter.name)
            assert all(place < len(schema.inputs) for place in row.cpu_inputs)


GOOD = """
provider = "p"
execution_provider = "P"
control_flow = []
moves_shapes = true
runtime = { package = "a", version = "1", holds = "b" }
source = [{ facts = "all", at = "here" }]
dtypes = { float = ["float16"] }
"""
ROW = '[[operator]]\nname = "Add"\nsince = [13]\ninputs = ["float int64"]\noutputs = ["any"]\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD + ROW + "since_version = 3", "operator.0.since_version: Extra inputs are not permitted"),
        (GOOD + ROW.replace("float int64", "half"), "operator Add: neither dtypes nor groups of them: half"),
        (GOOD + ROW.replace("[13]", '["13"]'), "operator.0.since.0: Input should be a valid integer"),
        (GOOD + ROW + ROW, "operator Add: two rows for version 13"),
        (GOOD.replace('["float16"]', '["half"]') + ROW, "dtypes.float: no dtypes: half"),
        (GOOD.replace("float =", "any =") + ROW, "dtypes.any: no name for a group"),
        (GOOD.replace("float =", "int8 =") + ROW, "dtypes.int8: no name for a group"),
        (GOOD + ROW + "attributes.k = {}", "give either values or multiple_of"),
        (GOOD, "operator: Field required"),
        (GOOD.replace("moves_shapes = true", "") + ROW.replace("[13]", "[]"), "moves_shapes: Field required; operator"),
        ("provider =", "Invalid value"),
    ],
)
def test_a_bad_table_is_told(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(errors.ProfileInvalidError) as caught:
        load_provider(path)
    assert caught.value.what == "The provider table p.toml is not valid."
    assert fault in caught.value.why


def test_a_good_table_is_read_and_an_absent_one_told(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(GOOD + ROW + ROW + 'needs = { a = "1" }', encoding="utf-8")
    assert load_provider(path).expand("float int64") == frozenset({HALF, LONG})
    assert load_provider(path).expand("any float") is None
    with pytest.raises(errors.ProfileInvalidError, match="No such file"):
        load_provider(tmp_path / "q.toml")


# A second reading of a table.

# The versions of schemas as of opsets, of operators with two inputs or one.
VERSIONS = {"Add": {13: 13, 14: 14, 22: 14}, "Equal": {13: 13, 14: 13, 22: 19}, "Own": {13: 1, 14: 1, 22: 1}}
NAMES = ("float16", "float32", "int64", "bool")
NEEDS: list[list[dict[str, str]]] = [[], [{}], [{"o": "1"}], [{}, {"o": "1"}]]
GROUPS = {"floats": ["float16", "float32"], "whole": ["int64"]}
entries = st.lists(st.sampled_from([*NAMES, *GROUPS, "any"]), min_size=1, max_size=2).map(" ".join)
places = st.lists(st.integers(0, 2), max_size=1)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    drawn: list[dict[str, Any]] = []
    for name, versions in VERSIONS.items():
        for since in sorted(set(versions.values())):
            for needs in draw(st.sampled_from(NEEDS)):
                row: dict[str, Any] = {
                    "name": name,
                    "domain": MICROSOFT if name == "Own" else "",
                    "since": [since],
                    "inputs": draw(st.lists(entries, min_size=1, max_size=3)),
                    "outputs": draw(st.lists(entries, min_size=1, max_size=2)),
                    "required_inputs": draw(places),
                    "absent_inputs": draw(places),
                    "absent_outputs": draw(places),
                    "needs": needs,
                }
                if draw(st.booleans()):
                    row["attributes"] = {"k": draw(st.sampled_from([
                        {"values": [1, 2]}, {"values": [2]}, {"multiple_of": "unit"},
                    ]))}  # fmt: skip
                drawn.append(row)
    return drawn


def takes(
    rows: Sequence[Mapping[str, Any]], name: str, since: int, inputs: Sequence[str | None], outputs: Sequence[str],
    attributes: Mapping[str, int], options: Mapping[str, str],
) -> bool:  # fmt: skip
    """Whether some row takes a node, read from the raw rows."""

    def allowed(entry: str) -> set[str]:
        names = {part for word in entry.split() for part in GROUPS.get(word, [word])}
        return set(NAMES) if "any" in names else names

    for row in rows:
        wrong = [row["name"] != name, row["since"] != [since]]
        wrong += [options.get(key) != value for key, value in row["needs"].items()]
        for kind, values in (("inputs", inputs), ("outputs", outputs)):
            listed = row[kind] + [row[kind][-1]] * 3
            for place, dtype in enumerate(values):
                wrong.append(
                    dtype is not None and (place in row[f"absent_{kind}"] or dtype not in allowed(listed[place]))
                )
        wrong += [place >= len(inputs) or inputs[place] is None for place in row["required_inputs"]]
        limit = row.get("attributes", {}).get("k", {})
        k = attributes.get("k")
        wrong.append("values" in limit and k is not None and k not in limit["values"])
        wrong.append("multiple_of" in limit and k is not None and k % attributes.get("unit", 1) != 0)
        if not any(wrong):
            return True
    return False


@given(
    rows().filter(bool),
    st.sampled_from(list(VERSIONS)),
    st.sampled_from([13, 14, 22]),
    st.lists(st.sampled_from([*NAMES, None]), min_size=1, max_size=3),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=2),
    st.fixed_dictionaries({}, optional={"k": st.integers(1, 4), "unit": st.integers(1, 3)}),
    st.sampled_from([{}, {"o": "1"}, {"o": "0"}]),
)
def test_a_second_reading_agrees(
    drawn: list[dict[str, Any]], name: str, opset: int, inputs: list[str | None], outputs: list[str],
    attributes: dict[str, int], options: dict[str, str],
) -> None:  # fmt: skip
    table = ProviderTable.model_validate({**tomllib.loads(GOOD), "dtypes": GROUPS, "operator": drawn}).under(options)
    graph = Graph(**{f"x{k}": DTYPES[dtype] for k, dtype in enumerate(inputs) if dtype is not None})
    values = [None if dtype is None else graph[f"x{k}"] for k, dtype in enumerate(inputs)]
    domain = MICROSOFT if name == "Own" else ""
    graph.node(name, values, *(DTYPES[dtype] for dtype in outputs), domain=domain, **attributes)
    told = check_conformance(graph.model(opset), table)
    assert told.nodes == 1
    assert (not told.misfits) == takes(drawn, name, VERSIONS[name][opset], inputs, outputs, attributes, options)
