"""The model card: README.md of a release, made from measurements. No number in it is typed by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge.deciding import deciding
from phiforge.gate import Outcome
from phiforge.packaging.layout import COMPONENT_FOLDER
from phiforge.quantities import quantity
from phiforge.release.layout import (
    BILL,
    CHANGES_TEXT,
    EVIDENCE,
    PROVENANCE,
    SIGNATURE,
)
from phiforge.release.prose import literal, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.release.layout import Number, ProfileStanding, ReleaseRecord
    from phiforge.release.recipe import Recipe

# The columns of the table over all devices: the heading, and the metric of the number.
_COLUMNS = {
    "size": "variant_bytes",
    "KL, mean": "kl_mean_nats",
    "top-1 agreement": "top1_agreement_fraction",
    "answer recovery": "answer_recovery_fraction",
    "TTFT, worst prompt": "ttft_ms",
    "decode, worst prompt": "decode_tokens_per_s",
    "peak memory": "peak_anon_bytes",
}
_UNKNOWN = "not measured"
_KINDS = (
    "Every number says how it was come by: *measured* on such a device, *emulated* by its vendor's emulator, "
    "*surrogate* by the same graph on another provider. Time and memory count only if measured."
)


@dataclass(frozen=True, kw_only=True)
class CardInput:
    """What a card is made of.

    Attributes:
        record: The release.
        recipes: What each variant was made of.
        hub_id: Where the Hub has the model it was made from; None where that is not known.
        limits: Of each profile, sentences on what the evidence does not show.
    """

    record: ReleaseRecord
    recipes: Mapping[str, Recipe]
    hub_id: str | None
    limits: Mapping[str, Sequence[str]]


def model_card(given: CardInput) -> str:
    """Return README.md, with front matter as the Hugging Face Hub reads it."""
    parts = [
        _front_matter(given),
        _opening(given),
        "## Devices\n\n" + _KINDS + "\n\n" + _devices(given.record),
        _waivers(given.record),
        *(_profile(name, item, given.limits.get(name, ())) for name, item in given.record.profiles.items()),
        _use(given),
        _contents(given.record),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(given: CardInput) -> str:
    """YAML whose values are JSON, so that no text can break out of it."""
    record = given.record
    devices = {recipe.record.device for recipe in given.recipes.values()}
    fields: dict[str, object] = {
        "license": record.licence.lower() if " " not in record.licence else "other",
        "library_name": "onnxruntime-genai",
        "pipeline_tag": "text-generation",
        "tags": ["onnx", "onnxruntime", "onnxruntime-genai", "phiforge", "quantized", *sorted(devices)],
    }
    if " " in record.licence:
        fields["license_name"] = record.licence
    if given.hub_id is not None:
        fields |= {"base_model": given.hub_id, "base_model_relation": "quantized"}
    lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())
    return f"---\n{lines}---\n"


def _opening(given: CardInput) -> str:
    record = given.record
    made = next(iter(given.recipes.values())).record.checkpoint
    before = record.previous
    held = (
        f"Held against {literal(before.version)} before it: [what changed]({CHANGES_TEXT})."
        if before
        else "The first release."
    )
    return (
        f"# {literal(record.name)} {literal(record.version)}\n\n"
        f"{literal(made.name)} ({made.parameters:,} parameters, checkpoint {made.fingerprint[:12]}), quantized by "
        f"phiforge {literal(record.phiforge_version)} for ONNX Runtime GenAI: a variant for each kind of device, with "
        f"the evidence of what each costs. {held}\n"
    )


def _devices(record: ReleaseRecord) -> str:
    rows = []
    for name, item in record.profiles.items():
        shown = [_shown(item, metric) for metric in _COLUMNS.values()]
        rows.append([name, item.variant, _verdict(item, record, name), *shown])
    return table(["profile", "variant", "verdict", *_COLUMNS], rows)


def _shown(item: ProfileStanding, metric: str) -> str:
    """Of each kind the number that decided, else the worst, as "0.0029 nats (measured)"."""
    found: dict[str, list[Number]] = {}
    for known in item.numbers:
        if known.metric == metric:
            found.setdefault(known.kind or "", []).append(known)
    texts = []
    for kind, numbers in found.items():
        counting = deciding(metric, numbers, lambda one: (one.kind, one.value), item.checks)
        texts.append(quantity(counting.value, counting.unit, 3) + (f" ({kind})" if kind else ""))
    return "; ".join(texts) or _UNKNOWN


def _verdict(item: ProfileStanding, record: ReleaseRecord, name: str) -> str:
    waived = any(waiver.profile == name for waiver in record.waivers)
    return item.outcome + (", waived" if waived else "") + ("" if item.required else ", not required")


def _waivers(record: ReleaseRecord) -> str:
    if not record.waivers:
        return ""
    lines = [
        f"- {literal(item.profile)}: {', '.join(map(literal, item.checks))} did not pass and may go out. Reason given: "
        f"{literal(item.reason)}\n"
        for item in record.waivers
    ]
    return "## Waived\n\n" + "".join(lines)


def _profile(name: str, item: ProfileStanding, limits: Sequence[str]) -> str:
    rows = [[number.title + number.where, _with_interval(number), number.kind or "fact"] for number in item.numbers]
    unpassed = [check for check in item.checks if check.outcome is not Outcome.PASS]
    notes = [f"- {check.outcome}: {literal(check.reason)}\n" for check in unpassed]
    notes += [f"- {literal(limit)}\n" for limit in limits]
    heading = f"## {literal(item.title)} ({literal(name)})\n\n"
    return heading + table(["number", "value (90 % interval)", "kind"], rows) + "\n" + "".join(notes)


def _with_interval(number: Number) -> str:
    if number.low is None or number.high is None:
        return quantity(number.value, number.unit)
    ends = " to ".join(quantity(end, number.unit) for end in (number.low, number.high))
    return f"{quantity(number.value, number.unit)} ({ends})"


def _use(given: CardInput) -> str:
    folders = {name: f"{given.record.package.folder}/{COMPONENT_FOLDER}/{name}" for name in given.recipes}
    rows = [[name, recipe.record.provider, recipe.record.device] for name, recipe in given.recipes.items()]
    folder = json.dumps(next(iter(folders.values())))
    return (
        "## Use\n\nEach variant is a complete folder for ONNX Runtime GenAI:\n\n"
        + table(["variant", "provider", "device"], rows)
        + f"\n```python\nimport onnxruntime_genai\n\nmodel = onnxruntime_genai.Model({folder})\n```\n"
    )


def _contents(record: ReleaseRecord) -> str:
    signed = f"`{SIGNATURE}` signs them." if record.signature != "none" else "It is not signed."
    brought = f"`{EVIDENCE}/` what was measured elsewhere or in turn; " if record.evidence else ""
    return (
        "## What is here\n\n"
        f"The package as it was sealed: `{record.package.folder}`, content {record.package.content_sha256}. "
        f"[The report](report.md) has all evidence; {brought}`{BILL}` is the bill of materials, `{PROVENANCE}` how it "
        f"was made; `SHA256SUMS` lists every file. {signed}\n\n"
        f"Licence: {literal(record.licence)}. `phiforge verify FOLDER` checks all of it offline.\n"
    )
