"""The charts: valid specifications, data that fits, nothing that could end a script."""

from __future__ import annotations

import json
import math

import altair as alt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fleet as made_up
from phiforge.reporting.charts import Drawings, charts, in_script
from phiforge.reporting.specs import Chart
from unit.reporting import samples

REPORT = made_up.fleet(made_up.MODELS[:1], made_up.DEVICES[:1]).entries[0].report
CHARTS = [(key, chart) for key, found in charts(REPORT).items() for chart in found]


@pytest.mark.parametrize(("key", "chart"), CHARTS, ids=[chart.title for _, chart in CHARTS])
def test_a_specification_is_valid_and_its_fields_are_in_the_data(key: str, chart: Chart) -> None:
    spec = {**chart.spec, "data": {"values": list(chart.data)}}
    alt.LayerChart.from_dict(spec) if "layer" in spec else alt.Chart.from_dict(spec)
    fields = set(_fields(chart.spec))
    assert fields
    assert all(set(datum) == set(chart.data[0]) for datum in chart.data)
    assert fields <= set(chart.data[0]), key


def _fields(spec: object) -> list[str]:
    if isinstance(spec, dict):
        own = [spec["field"]] if isinstance(spec.get("field"), str) else []
        return own + [name for value in spec.values() for name in _fields(value)]
    return [name for value in spec for name in _fields(value)] if isinstance(spec, list) else []


def test_full_evidence_has_every_curve() -> None:
    titles = {chart.title for _, chart in CHARTS}
    assert len(titles) == len(CHARTS) == 13
    words = ("by prompt length", "by context position", "over time", "KL by position", "percentiles", "earlier release")
    for word in words:
        assert any(word in title for title in titles), word


def test_measured_and_predicted_are_series_of_one_chart() -> None:
    (chart,) = [chart for _, chart in CHARTS if chart.title == "Decode speed by prompt length"]
    assert {datum["series"] for datum in chart.data} == {"p50 measured", "p95 measured", "predicted"}
    assert chart.kind == ""


def test_a_device_that_nobody_measured_has_predicted_curves_alone() -> None:
    report = made_up.fleet(made_up.MODELS[:1], made_up.DEVICES[9:10]).entries[0].report
    (chart,) = [
        chart for found in charts(report).values() for chart in found if chart.title == "Decode speed by prompt length"
    ]
    assert {datum["series"] for datum in chart.data} == {"predicted"}
    assert chart.kind == "predicted"


def test_cliffs_are_named_and_do_not_cover_each_other() -> None:
    (chart,) = [chart for _, chart in CHARTS if chart.title == "Time of a token by context position"]
    named = [str(datum["cliff"]) for datum in chart.data if datum["cliff"]]
    assert named == [
        "stall at 4,096: longrope\nswitch: the runtime recomputes\nits KV cache",
        "\u200b\n\u200b\n\u200b\nstep at 4,096",
    ]


def test_charts_alike_share_a_specification() -> None:
    drawings = Drawings()
    count = 0
    for entry in made_up.fleet(made_up.MODELS[:2], made_up.DEVICES[:4]).entries:
        for found in charts(entry.report).values():
            for chart in found:
                drawings.add(chart)
                count += 1
    content = json.loads(drawings.script())
    assert len(content["charts"]) == count
    assert len(content["specs"]) < count / 3


def test_numbers_are_short_and_finite() -> None:
    report = samples.report()
    drawings = Drawings()
    for found in charts(report).values():
        for chart in found:
            drawings.add(chart)
    for _, columns, rows in json.loads(drawings.script())["charts"]:
        for row in rows:
            assert len(row) == len(columns)
            assert all(len(f"{value:.12g}".replace(".", "").lstrip("0")) <= 12 for value in row if _is_number(value))


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


@given(st.text())
def test_no_text_ends_a_script_and_all_of_it_is_kept(text: str) -> None:
    written = in_script(json.dumps(text, ensure_ascii=False))
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == text
