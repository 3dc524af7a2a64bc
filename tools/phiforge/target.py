"""The schema of one device profile: a TOML file in `targets/`."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from phiforge import errors
from phiforge.evidence import Kind
from phiforge.providers import PROVIDERS
from phiforge.soc import SOC_MODELS

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


# The provider, by its name in genai_config, and the device of each target.
RUNS_ON = {provider.target: (name, provider.device) for name, provider in PROVIDERS.items()}


class Section(BaseModel):
    """Base of a profile's tables: frozen, unknown keys forbidden, no silent conversion of text to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Identity(Section):
    """What the device is called."""

    title: str
    description: str


class Runtime(Section):
    """What runs the variant on the device."""

    package: str
    version: str
    provider: str
    device: Literal["cpu", "gpu", "npu"]


class Build(Section):
    """What is built for the device."""

    target: Literal["cpu", "directml", "qnn", "webgpu"]
    pipeline: str


class Roofline(Section):
    """How fast the device moves and computes, for predictions alone; nothing is judged by it.

    `operations_per_s` counts a multiplication with its addition as two, in the type that the products are computed in.
    The efficiencies are fitted to measurements; `efficiency_source` names them, or says from which other kind of device
    they are borrowed, and only fitted ones have an `efficiency_error_fraction`.
    """

    memory_bandwidth_bytes_per_s: Positive
    operations_per_s: Positive
    source: Annotated[str, Field(min_length=1)]
    bandwidth_efficiency_fraction: Annotated[float, Field(gt=0, le=1)]
    compute_efficiency_fraction: Annotated[float, Field(gt=0, le=1)]
    node_overhead_us: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    efficiency_source: Annotated[str, Field(min_length=1)]
    efficiency_error_fraction: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Hardware(Section):
    """Facts of the device that a plan or a check needs; a GPU's vendor by its PCI id, where only one is meant.

    A profile of a GPU may leave the processor's architecture open. `model_memory_fraction` is the share of the memory
    that a model may take, and `context_tokens` the context that must fit in it, or the model's own where that is less;
    on an NPU the context is that of the compiled graphs.
    """

    architecture: Literal["x86_64", "arm64"] | None = None
    memory_bytes: Annotated[int, Field(gt=0)]
    model_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.75
    context_tokens: Annotated[int, Field(ge=64)] = 4096
    gpu_vendor_id: Annotated[int, Field(ge=0, le=0xFFFF)] | None = None
    roofline: Roofline | None = None

    @property
    def available_bytes(self) -> int:
        """Memory that a model may take."""
        return int(self.memory_bytes * self.model_memory_fraction)


class Npu(Section):
    """The device's NPU, and what is compiled for it.

    `source` says where `soc_model` and `architecture` are from; if they are not `confirmed`, also what disagrees.
    `part_bytes_max` limits the weights of one binary, and `calibration_tokens` stands in for the pipeline's own.
    """

    soc_model: int
    architecture: str
    confirmed: bool
    source: Annotated[str, Field(min_length=1)]
    context_tokens: Annotated[int, Field(ge=64)]
    window_tokens: Literal[64, 128]
    kv_cache_bits: Literal[8, 16]
    attention: Literal["cpu", "npu"]
    part_bytes_max: Annotated[int, Field(gt=0)]
    calibration_tokens: Annotated[int, Field(ge=256)] | None = None

    @field_validator("soc_model")
    @classmethod
    def _is_listed(cls, value: int) -> int:
        if value not in SOC_MODELS:
            listed = ", ".join(f"{number} ({soc.name})" for number, soc in SOC_MODELS.items())
            raise ValueError(
                f"{value} is none of those that are known to compile: {listed}. An unknown one is accepted by the "
                "compiler's other options and then falls back to the CPU silently"
            )
        return value

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        soc = SOC_MODELS[self.soc_model]
        if self.architecture != soc.architecture:
            raise ValueError(
                f"architecture is {self.architecture!r}, but soc_model {self.soc_model} is {soc.name} with Hexagon "
                f"{soc.architecture}"
            )
        if self.context_tokens % self.window_tokens:
            raise ValueError(
                f"context_tokens is {self.context_tokens}, which is no multiple of window_tokens, {self.window_tokens}"
            )
        return self


class Budgets(Section):
    """Limits a variant must keep on the device; an absent limit is not judged.

    Drift, answers and probes are judged on the kinds of evidence in `accepts`; time and memory only on `measured`. The
    emulator's error is that of its logits against the same graphs on the CPU, a provider's the same with products in
    floats; float16's is that of the logits against
    the same graph in float32, relative to the spread of the latter.
    """

    kl_mean_nats_max: Positive | None = None
    kl_p99_nats_max: Positive | None = None
    top1_agreement_fraction_min: Fraction | None = None
    perplexity_ratio_max: Positive | None = None
    answer_recovery_fraction_min: Fraction | None = None
    variant_bytes_max: Annotated[int, Field(gt=0)] | None = None
    load_ms_max: Positive | None = None
    ttft_p50_ms_max: Positive | None = None
    prefill_tokens_per_s_min: Positive | None = None
    decode_tokens_per_s_min: Positive | None = None
    inter_token_p99_ms_max: Positive | None = None
    peak_anon_bytes_max: Annotated[int, Field(gt=0)] | None = None
    emulator_relative_error_max: Positive | None = None
    provider_relative_error_max: Positive | None = None
    float16_relative_error_max: Positive | None = None


class Thorough(Section):
    """What `phiforge bench --thorough` measures besides: pauses before an answer, and how long the rest may take."""

    idle_s: Annotated[list[Annotated[float, Field(ge=0, le=3600)]], Field(min_length=1)] = [0.0, 1.0, 10.0]
    idle_repeats: Annotated[int, Field(ge=1, le=100)] = 3
    position_seconds_max: Positive = 120.0


class Measure(Section):
    """How latency is measured on the device; the bound of a median needs five repeats.

    No prompt length is begun that would end later than `seconds_max` after the first one; the decode by context
    position goes as far as `position_seconds_max` allows.
    """

    warmups: Annotated[int, Field(ge=1, le=100)]
    repeats: Annotated[int, Field(ge=5, le=1000)]
    prompt_tokens: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    decode_tokens: Annotated[int, Field(ge=8)]
    threads: Annotated[int, Field(ge=1)] | None = None
    seconds_max: Positive = 1800.0
    position_seconds_max: Positive = 2.0
    thorough: Thorough = Thorough()


class Regression(Section):
    """How much worse than the previous release a variant may be on the device; what is not named has its default.

    A growth or slowdown is a share of the earlier number, a loss the difference of two fractions. Drift, answers and
    time pass only if the upper end of the difference's interval keeps the limit.
    """

    variant_bytes_growth_fraction_max: Share = 0.05
    kl_mean_growth_fraction_max: Share = 0.10
    kl_p99_growth_fraction_max: Share = 0.25
    top1_agreement_loss_fraction_max: Share = 0.01
    answer_recovery_loss_fraction_max: Share = 0.02
    peak_anon_bytes_growth_fraction_max: Share = 0.10
    ttft_slowdown_fraction_max: Share = 0.10
    decode_slowdown_fraction_max: Share = 0.10

    @property
    def slowdown_fraction_max(self) -> float:
        """The slowdown that a comparison of time must be able to tell: the smaller of the two."""
        return min(self.ttft_slowdown_fraction_max, self.decode_slowdown_fraction_max)


class Profile(Section):
    """One device: runtime, build options, hardware facts, budgets; `npu` where it is built for an NPU."""

    name: str
    identity: Identity
    runtime: Runtime
    build: Build
    hardware: Hardware
    npu: Npu | None = None
    accepts: Annotated[list[Annotated[Kind, Field(strict=False)]], Field(min_length=1)]
    budgets: Budgets
    budgets_for: dict[str, Budgets] = {}
    regression: Regression = Regression()
    measure: Measure

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if (self.npu is not None) != (self.build.target == "qnn"):
            raise ValueError("the table npu goes with build.target qnn, and only with it")
        if self.hardware.architecture is None and self.runtime.device != "gpu":
            raise ValueError("hardware.architecture is needed for a cpu or an npu")
        told, wanted = (self.runtime.provider, self.runtime.device), RUNS_ON[self.build.target]
        if told != wanted:
            raise ValueError(
                f"runtime.provider and runtime.device are {told[0]!r} and {told[1]!r}, but build.target "
                f"{self.build.target} runs by {wanted[0]!r} on {wanted[1]!r}"
            )
        return self

    def budgets_of(self, family: str) -> Budgets:
        """The budgets for one model family: the common ones, overridden by the family's own."""
        own = self.budgets_for.get(family)
        if own is None:
            return self.budgets
        return self.budgets.model_copy(update=own.model_dump(exclude_none=True))


def load_profile(path: Path) -> Profile:
    """Read one device profile; its name is the file's stem.

    Raises:
        ProfileInvalidError: The file is no TOML or breaks the schema; the message lists every fault.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return Profile.model_validate({"name": path.stem, **data})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _invalid(path, str(error)) from error
    except ValidationError as error:
        faults = "; ".join(_fault(dict(item)) for item in error.errors())
        raise _invalid(path, faults) from error


def parse_profile(path: Path) -> Profile:
    """Read a profile as a package carries it, as JSON.

    Raises:
        ProfileInvalidError: The file is no JSON or breaks the schema.
    """
    try:
        return Profile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _invalid(path, " ".join(str(error).split())) from error


def _invalid(path: Path, why: str) -> errors.ProfileInvalidError:
    return errors.ProfileInvalidError(
        f"The device profile {path.name} is not valid.",
        why=why,
        fix="Correct the keys named; docs/profiles.md lists every key with its unit.",
    )


def _fault(item: dict[str, object]) -> str:
    location = item["loc"]
    where = ".".join(str(part) for part in location) if isinstance(location, tuple) else str(location)
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key{_near_key(where)}"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _near_key(where: str) -> str:
    """Name the known key that a mistyped or wrongly united one is nearest to, as `kl_mean_bits_max`."""
    import difflib

    known = {field for section in Section.__subclasses__() for field in section.model_fields}
    near = difflib.get_close_matches(where.rsplit(".", 1)[-1], sorted(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}? units are part of the name)" if near else ""
