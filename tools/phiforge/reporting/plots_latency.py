"""Charts of time and memory: by prompt length, by context position, over time, under load, against a release."""

from __future__ import annotations

import math
import statistics
import textwrap
from typing import TYPE_CHECKING

from phiforge.gate import number
from phiforge.reporting import text
from phiforge.reporting.content_latency import load
from phiforge.reporting.plots import is_bounded, percentiles, powers_of_four
from phiforge.reporting.specs import (
    BLUE,
    ORANGE,
    Chart,
    Datum,
    Spec,
    intervals,
    layers,
    log_scale,
    mark,
    name_axis,
    quantity,
    series,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.evidence import Comparison, Kind, Latency, Prediction

PREDICTED = "predicted"
# Letters of a line of a cliff's name: two thirds of a chart on a phone.
_NAME_WIDTH = 30
# A line of nothing, or of spaces, which Vega cuts off, takes no place in an SVG.
_EMPTY_LINE = "\N{ZERO WIDTH SPACE}\n"


def time_to_first_token(latency: Latency | None, prediction: Prediction | None, evidence: str) -> Chart | None:
    """Time to first token by prompt length, measured beside predicted."""
    rows = latency.rows if latency else ()
    told = prediction.rows if prediction else ()
    lines = [(_of("p50", latency), row.prompt_tokens, row.ttft_p50_ms) for row in rows]
    lines += [(_of("p95", latency), row.prompt_tokens, row.ttft_p95_ms) for row in rows]
    lines += [(PREDICTED, row.prompt_tokens, row.ttft_ms) for row in told]
    kind = latency.kind if latency else prediction.kind if prediction else None
    return _by_prompt("Time to first token by prompt length", "Time to first token, ms", lines, kind, evidence)


def decode_speed(latency: Latency | None, prediction: Prediction | None, evidence: str) -> Chart | None:
    """Decode speed by prompt length, measured beside predicted."""
    rows = latency.rows if latency else ()
    told = prediction.rows if prediction else ()
    lines = [(_of("p50", latency), row.prompt_tokens, row.decode_tokens_per_s_p50) for row in rows]
    lines += [(_of("p95", latency), row.prompt_tokens, row.decode_tokens_per_s_p95) for row in rows]
    lines += [(PREDICTED, row.prompt_tokens, row.decode_tokens_per_s) for row in told]
    kind = latency.kind if latency else prediction.kind if prediction else None
    return _by_prompt("Decode speed by prompt length", "Decode, tokens/s", lines, kind, evidence)


def by_position(latency: Latency, evidence: str) -> Chart | None:
    """Time of a token by context position, with the cliffs that were found, each by its name."""
    data: list[Datum] = [
        {"series": name, "position": (item.start + item.stop) / 2, "ms": value, "cliff": ""}
        for item in latency.by_position
        for name, value in (("p50", item.inter_token_p50_ms), ("p95", item.inter_token_p95_ms))
    ]
    if not data:
        return None
    middle = latency.by_position[-1].stop / 2
    data += [
        {
            "series": "left" if cliff.position > middle else "right",
            "position": cliff.position,
            "ms": None,
            "cliff": name,
        }
        for cliff, name in zip(latency.cliffs, _cliff_names(latency), strict=True)
    ]
    colour, dash = series(("p50", "p95"), ("p95",))
    encoding = {"x": quantity("position", "Context position, tokens", grid=False, scale={"nice": False, "zero": True})}
    line = {"y": quantity("ms", "Time of a token, ms", scale={"zero": True}), "color": colour, "strokeDash": dash}
    lines = {**mark("line", line, strokeWidth=2), "transform": _only("datum.cliff === ''")}
    spec = layers(encoding, lines, *_cliff_marks({str(datum["series"]) for datum in data}))
    return Chart("Time of a token by context position", latency.kind, evidence, spec, tuple(data))


def between_tokens(latency: Latency, evidence: str) -> Chart | None:
    """Percentiles of the time between tokens after the longest prompt."""
    rows = [row for row in latency.rows if row.inter_token_percentiles_ms is not None]
    if not rows:
        return None
    row = max(rows, key=lambda row: row.prompt_tokens)
    assert row.inter_token_percentiles_ms is not None
    spec, data = percentiles(row.inter_token_percentiles_ms, "Time between tokens, ms (logarithmic)", "Percentile")
    title = f"Time between tokens after a prompt of {text.whole(row.prompt_tokens)}"
    return Chart(title, latency.kind, evidence, spec, data) if data else None


def idle(latency: Latency, evidence: str) -> Chart | None:
    """Time to first token after the process did nothing for a while, each repeat a dot."""
    data: tuple[Datum, ...] = tuple(
        {"name": f"{number(row.idle_s, 3)} s", "ms": time} for row in latency.idle for time in row.ttft_ms
    )
    names = [f"{number(row.idle_s, 3)} s" for row in latency.idle]
    encoding = {
        "x": name_axis("Idle before", names),
        "y": quantity("ms", "Time to first token, ms", scale={"zero": True}),
    }
    spec = layers(encoding, mark("point", color=BLUE, size=45, opacity=0.9))
    return Chart("First token after idle", latency.kind, evidence, spec, data) if data else None


def contention(latency: Latency, evidence: str) -> Chart | None:
    """Decode speed while other processes use the machine."""
    data: tuple[Datum, ...] = tuple(
        {"name": load(row.busy_cores, row.busy_accelerator), "speed": row.decode_tokens_per_s_p50}
        for row in latency.contention
    )
    names = list(dict.fromkeys(str(datum["name"]) for datum in data))
    encoding = {
        "x": quantity("speed", "Decode, tokens/s", scale={"zero": True}),
        "y": name_axis("", names),
    }
    spec = layers(encoding, mark("bar", color=BLUE, height=12), height=50 + 30 * len(names))
    return Chart("Decode speed beside other work", latency.kind, evidence, spec, data) if data else None


def memory(latency: Latency, evidence: str) -> Chart | None:
    """Anonymous and resident memory of the measuring process over time."""
    if not latency.memory:
        return None
    samples = sorted(latency.memory, key=lambda sample: sample.t_s)
    data: tuple[Datum, ...] = tuple(
        {"series": name, "t": sample.t_s, "gb": amount / 1e9}
        for sample in samples
        for name, amount in (("anonymous", sample.anon_bytes), ("resident", sample.rss_bytes))
    )
    colour, dash = series(("anonymous", "resident"), ("resident",))
    encoding = {
        "x": quantity("t", "Time since start, s", grid=False, scale={"nice": False}),
        "y": quantity("gb", "Memory, GB", scale={"zero": True}),
        "color": colour,
        "strokeDash": dash,
    }
    return Chart("Memory over time", latency.kind, evidence, layers(encoding, mark("line", strokeWidth=2)), data)


def comparison(record: Comparison, evidence: str) -> Chart | None:
    """Time over that of an earlier release with its 90 % interval; 1 is as fast as before."""
    data: tuple[Datum, ...] = tuple(
        {
            "name": f"{'first token' if row.metric == 'ttft' else 'decode'}, {text.whole(row.prompt_tokens)}",
            "ratio": row.ratio_p50 if math.isfinite(row.ratio_p50) else statistics.median(row.ratios),
            "low": row.ratio_interval.low,
            "high": row.ratio_interval.high,
        }
        for row in record.rows
    )
    names = [str(datum["name"]) for datum in data]
    spec = intervals("ratio", "Time, new ÷ earlier", names, neutral=1, bounded=is_bounded(data))
    title = "Time against the earlier release, with 90 % intervals"
    return Chart(title, record.kind, evidence, spec, data) if data else None


def _cliff_marks(sides: set[str]) -> list[Spec]:
    """A line at each cliff, and its name beside it; nothing for a side on which there is none."""
    label = {"text": {"field": "cliff", "type": "nominal"}, "y": {"value": 0}}
    look = {"baseline": "top", "dy": 2, "color": ORANGE, "lineBreak": "\n"}
    marks = []
    for side, align, dx in (("left", "right", -5), ("right", "left", 5)):
        if side in sides:
            line = mark("rule", color=ORANGE, strokeWidth=1.5, strokeDash=[2, 2])
            name = mark("text", label, align=align, dx=dx, **look)
            marks += [{**layer, "transform": _only(f"datum.series === '{side}'")} for layer in (line, name)]
    return marks


def _cliff_names(latency: Latency) -> list[str]:
    """What stands beside each cliff; each begins below the one before it, so that none covers another."""
    names: list[str] = []
    lines = 0
    for cliff in latency.cliffs:
        told = f"{cliff.shape} at {text.whole(cliff.position)}{f': {cliff.cause}' if cliff.cause else ''}"
        wrapped = textwrap.wrap(told, _NAME_WIDTH)
        names.append(_EMPTY_LINE * lines + "\n".join(wrapped))
        lines += len(wrapped)
    return names


def _only(condition: str) -> list[dict[str, str]]:
    """A transform that keeps some data alone."""
    return [{"filter": condition}]


def _of(name: str, latency: Latency | None) -> str:
    return f"{name} {latency.kind}" if latency else name


def _by_prompt(
    title: str, unit: str, lines: Sequence[tuple[str, int, float]], kind: Kind | None, evidence: str
) -> Chart | None:
    data: tuple[Datum, ...] = tuple(
        {"series": name, "prompt": prompt, "value": value} for name, prompt, value in lines if math.isfinite(value)
    )
    if not data or kind is None:
        return None
    prompts = sorted({prompt for _, prompt, _ in lines})
    scale = log_scale(prompts[0] / 1.3, prompts[-1] * 1.3)
    names = list(dict.fromkeys(name for name, _, _ in lines))
    colour, dash = series(names, [name for name in names if not name.startswith("p50")])
    ticks = prompts if len(prompts) <= 6 else [tick for tick in powers_of_four(prompts[-1]) if tick >= prompts[0]]
    encoding = {
        "x": quantity("prompt", "Prompt, tokens", grid=False, scale=scale, values=ticks, format=",~f"),
        "y": quantity("value", unit, scale={"zero": True}, format=",~f"),
        "color": colour,
        "strokeDash": dash,
    }
    points = {"strokeDash": {"value": [1, 0]}}
    spec = layers(
        encoding,
        mark("line", strokeWidth=2),
        mark("point", points, size=40, filled=True, opacity=1),
    )
    shown = "" if PREDICTED in names and len(names) > 1 else kind.value
    return Chart(title, shown, evidence, spec, data)
