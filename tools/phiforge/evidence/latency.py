"""The records of time, memory and energy: measured, held against an earlier release, and predicted."""

from __future__ import annotations

from typing import Literal

from phiforge.evidence.record import SCHEMA_VERSION, Conditions, Interval, Kind, Percentiles, Record


class LatencyRow(Record):
    """Latency at one prompt length. Decode figures are at the context lengths that follow the prompt.

    `ttft_ms` and `decode_tokens_per_s` are of each repeat, in order.
    """

    prompt_tokens: int
    decode_tokens: int
    repeats: int
    ttft_p50_ms: float
    ttft_p95_ms: float
    prefill_tokens_per_s_p50: float
    decode_tokens_per_s_p50: float
    decode_tokens_per_s_p95: float
    inter_token_p50_ms: float
    inter_token_p99_ms: float
    ttft_ms: tuple[float, ...] = ()
    decode_tokens_per_s: tuple[float, ...] = ()
    inter_token_percentiles_ms: Percentiles | None = None
    inter_token_p99_interval_ms: Interval | None = None


class DecodeBin(Record):
    """Time of the tokens decoded at `start <= context position < stop`."""

    start: int
    stop: int
    count: int
    inter_token_p50_ms: float
    inter_token_p95_ms: float


class Cliff(Record):
    """A context position at which decoding becomes slower for good, or stalls once, far beyond the noise.

    `ratio` is after over before for a step, and the stall over the median token for a stall. `cause` is "" where none
    is known.
    """

    position: int
    shape: Literal["step", "stall"]
    before_ms: float
    after_ms: float
    ratio: float
    cause: str = ""


class IdleRow(Record):
    """Time to first token of a short prompt after the process did nothing for so long."""

    idle_s: float
    prompt_tokens: int
    ttft_ms: tuple[float, ...]


class SecondTurn(Record):
    """Time to first token of a second turn with the cache kept, and of the whole conversation computed anew."""

    first_turn_tokens: int
    second_turn_tokens: int
    kept_ttft_ms: tuple[float, ...]
    anew_ttft_ms: tuple[float, ...]


class ContentionRow(Record):
    """Latency while other processes use so many cores, or the same accelerator."""

    busy_cores: int
    busy_accelerator: bool = False
    prompt_tokens: int
    ttft_p50_ms: float
    decode_tokens_per_s_p50: float


class Energy(Record):
    """Energy that `source` (a counter of the machine) told during decoding; for the whole of what it covers."""

    source: str
    covers: str
    tokens: int
    joules: float
    joules_per_token: float
    average_watts: float
    idle_watts: float | None = None


class MemorySample(Record):
    """Memory of the measuring process at one moment after its start."""

    t_s: float
    anon_bytes: int
    rss_bytes: int


class Latency(Record):
    """Time and memory of one variant in a fresh process; TTFT counts from the prompt's tokens to the first new one.

    `decode_tokens_per_s_p95` is the speed that 95 % of the repeats reach or exceed.
    """

    evidence: Literal["latency"] = "latency"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    warmups: int
    load_ms: float
    load_cold_ms: tuple[float, ...] = ()
    load_warm_ms: tuple[float, ...] = ()
    rows: tuple[LatencyRow, ...]
    by_position: tuple[DecodeBin, ...] = ()
    cliffs: tuple[Cliff, ...] = ()
    idle: tuple[IdleRow, ...] = ()
    second_turn: SecondTurn | None = None
    contention: tuple[ContentionRow, ...] = ()
    energy: Energy | None = None
    peak_anon_bytes: int
    peak_rss_bytes: int
    memory: tuple[MemorySample, ...]


class ComparisonRow(Record):
    """Time of the variant over that of the other one in each round of one interleaved run; above 1 it is slower."""

    metric: Literal["ttft", "decode"]
    prompt_tokens: int
    ratios: tuple[float, ...]
    ratio_p50: float
    ratio_interval: Interval


class Comparison(Record):
    """A variant against that of an earlier release, measured in turn on one machine, so that noise meets both alike."""

    evidence: Literal["comparison"] = "comparison"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    against_sha256: str
    rounds: int
    rows: tuple[ComparisonRow, ...]


class PredictedRow(Record):
    """Time at one prompt length; decoding is at the context that follows the prompt."""

    prompt_tokens: int
    ttft_ms: float
    decode_tokens_per_s: float


class MemoryNeed(Record):
    """Memory of a variant at a context: its files, its KV cache, and what the graph needs while it runs."""

    context_tokens: int
    weights_bytes: int
    kv_cache_bytes_per_token: int
    kv_cache_bytes: int
    workspace_bytes: int
    total_bytes: int


class Prediction(Record):
    """A roofline's answer for a device that need not be here; the efficiencies are fitted from measurements only.

    `efficiency_source` says from which, and `efficiency_error_fraction` how far the roofline was from them.
    `node_overhead_us` is the time that each node of a graph takes besides.
    """

    evidence: Literal["prediction"] = "prediction"
    schema_version: str = SCHEMA_VERSION
    kind: Kind
    conditions: Conditions
    variant_sha256: str
    profile: str
    bandwidth_bytes_per_s: float
    operations_per_s: float
    bandwidth_efficiency_fraction: float
    compute_efficiency_fraction: float
    node_overhead_us: float = 0.0
    efficiency_source: str
    efficiency_error_fraction: float | None = None
    rows: tuple[PredictedRow, ...]
    memory: MemoryNeed
