"""The fit of the CPU's roofline from its measured times: the tables of docs/prediction.md.

    python tests/bench/roofline.py

The times are of two virtual Xeon cores (2.6 GHz, AVX512-VNNI), 2 threads; what each moves and computes is counted from
the configuration of its model, as a plan does it. Nothing is run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge import catalog
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.devices import pipeline_costs
from phiforge.pipeline import load_pipeline
from phiforge.plan import complete_for_npu, exported_config, float_bytes, norm_weights, plan_weights
from phiforge.quantities import number
from phiforge.roofline import Fit, TimedRun, fit_roof, prompt_run, token_run
from phiforge.target import load_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.costs import Costs

ROOT = Path(__file__).parents[2]
PROFILE = "cpu-x64"
# By STREAM's triad; 2 cores x 2.6 GHz x 256 int8 operations a clock.
BANDWIDTH_BYTES_PER_S, OPERATIONS_PER_S = 29.7e9, 1.33e12
MINI, LAYERS, NANO = "Phi-4-mini's shapes", "Phi-4-mini's shapes, 4 layers", "phi-4-nano"


@dataclass(frozen=True)
class Time:
    """A measured time: that of the first token of so many, or of a token after so many others."""

    model: str
    tokens: int
    first: bool
    ms: float

    @property
    def said(self) -> str:
        """What it is the time of."""
        return f"first token of {self.tokens:,}" if self.first else f"a token after {self.tokens:,}"


FITTED = (
    Time(MINI, 128, True, 2245.6),
    Time(MINI, 140, False, 105.15),
    Time(LAYERS, 512, True, 1247.8),
    Time(LAYERS, 536, False, 29.16),
    Time(NANO, 48, False, 0.245),
    Time(NANO, 160, False, 0.282),
    Time(NANO, 544, False, 0.447),
    Time(NANO, 1056, False, 0.596),
)
# Held against the fit and not part of it: neither limit of a roofline binds these.
LEFT_OUT = (
    Time(NANO, 16, True, 1.95),
    Time(NANO, 64, True, 4.49),
    Time(NANO, 128, True, 8.14),
    Time(NANO, 256, True, 16.8),
    Time(NANO, 512, True, 38.6),
    Time(NANO, 1024, True, 102.4),
)


def models() -> dict[str, Costs]:
    """What each model's CPU variant costs."""
    nano = load_config(CHECKPOINT_DIR)
    # From Phi-4-mini's config.json.
    mini = replace(
        nano, hidden_size=3072, intermediate_size=8192, layer_count=32, head_count=24, kv_head_count=8, head_size=128,
        vocab_size=200_064, max_positions=131_072, original_max_positions=4096, rope_kind="longrope",
        partial_rotary_factor=0.75, tied_embeddings=True,
    )  # fmt: skip
    return {MINI: _costs(mini), LAYERS: _costs(replace(mini, layer_count=4)), NANO: _costs(nano)}


def fit() -> Fit:
    """Fit the roofline to the fitted times."""
    return fit_roof(_runs(FITTED), bandwidth_bytes_per_s=BANDWIDTH_BYTES_PER_S, operations_per_s=OPERATIONS_PER_S)


def told(times: Sequence[Time], found: Fit) -> list[tuple[Time, float, float]]:
    """Each time with what the roofline makes of it in milliseconds, and its error as a fraction."""
    return [
        (time, ms := found.roof.of_run(run), ms / time.ms - 1) for time, run in zip(times, _runs(times), strict=True)
    ]


def table(times: Sequence[Time], found: Fit) -> list[str]:
    """The rows of the page's table."""
    return [
        f"| {time.model} | {time.said} | {time.ms:,} | {number(ms)} | {100 * error:+.0f} % |"
        for time, ms, error in told(times, found)
    ]


def main() -> None:
    """Print the tables and the fit."""
    found = fit()
    for title, times in (("fitted", FITTED), ("left out", LEFT_OUT)):
        head = "| model | time | measured ms | by the fit | error |\n|---|---|---|---|---|"
        sys.stdout.write("\n".join([title, head, *table(times, found), ""]))
    roof = found.roof
    rates = {
        "bandwidth_efficiency_fraction": round(roof.bandwidth_efficiency_fraction, 3),
        "compute_efficiency_fraction": round(roof.compute_efficiency_fraction, 3),
        "node_overhead_us": round(roof.node_overhead_us, 2),
        "efficiency_error_fraction": round(found.error_fraction, 3),
    }
    sys.stdout.write(f"{json.dumps(rates, indent=1)}\n")


def _runs(times: Sequence[Time]) -> list[TimedRun]:
    costs = models()
    return [(prompt_run if time.first else token_run)(costs[time.model], time.tokens, time.ms) for time in times]


def _costs(config: ModelConfig) -> Costs:
    profile = load_profile(catalog.profile_path(ROOT, PROFILE))
    pipeline = load_pipeline(catalog.pipeline_path(ROOT, profile.build.pipeline))
    pipeline, npu = complete_for_npu(config, pipeline, [profile])
    exported, size = exported_config(config, pipeline), float_bytes(pipeline)
    weights = plan_weights(exported, pipeline.quantize_options(), row_scales=npu is not None, scale_bytes=size)
    return pipeline_costs(exported, pipeline, weights, size * norm_weights(exported))


if __name__ == "__main__":
    main()
