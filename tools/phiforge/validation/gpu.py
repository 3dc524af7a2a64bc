"""Validation of a variant for a GPU on a build machine: by what stands in for it, and WebGPU's on its own provider.

On a machine without the device the very same graph runs on the CPU provider, float16 included: surrogate. WebGPU's
plugin also runs its real kernels on software Vulkan: emulated, for some of the texts because that is slow. With a real
adapter its numbers are measured.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge.calibration import load_calibration
from phiforge.evidence import Kind, Probes
from phiforge.graph.float32 import is_float16, make_exact_twin, make_float32_twin
from phiforge.validation.agreement import agreement, compare
from phiforge.validation.drift import Reference
from phiforge.validation.overflow import overflow_prompts, probe_overflow
from phiforge.validation.prefill import measure_prefills, probe_prefill
from phiforge.validation.probes import probe_placement
from phiforge.validation.records import drift_record
from phiforge.validation.run import validate_variant
from phiforge.validation.subset import cut_reference, first_texts, token_line, within
from phiforge.validation.twin import scored_folder
from phiforge.validation.way import SOFTWARE_NOTE, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from phiforge.evidence import AnyEvidence, Probe
    from phiforge.runtime.variant import Variant
    from phiforge.selection import Adapter
    from phiforge.validation.agreement import Comparison, LogitsOf
    from phiforge.validation.held_out import Stamp
    from phiforge.validation.reference_outputs import ReferenceOutputs

    Progress = Callable[[str, int, int], None]
    Floats = NDArray[np.float32]

SURROGATE_NOTE = "the same graph on the CPU provider, float16 activations and cache included"
# Positions held against the float32 twin and against other variants; run on the provider, in prefill and one by one.
COMPARED_POSITIONS, EMULATED_POSITIONS, DECODED_POSITIONS = 1024, 512, 96
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class GpuSubject:
    """A built variant for a GPU.

    Attributes:
        folder: The variant's folder.
        provider: Its name in genai_config: "dml" or "webgpu".
        sha256: The hash of what ships.
        calibration: The texts it was calibrated on, None where they are not at hand.
        others: Variants of the same checkpoint to compare it with: name to folder and hash.
        conformance: Checks the graph against what the provider has kernels for.
    """

    folder: Path
    provider: str
    sha256: str
    calibration: Path | None
    others: Mapping[str, tuple[Path, str]]
    conformance: Callable[[Path], Probe]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What all parts of one validation share; `stamp` is of the surrogate."""

    subject: GpuSubject
    outputs: ReferenceOutputs
    stamp: Stamp
    work: Path
    threads: int
    progress: Progress


def validate_gpu(
    subject: GpuSubject,
    outputs: ReferenceOutputs,
    *,
    work: Path,
    threads: int,
    progress: Progress,
    chunk: int | None = None,
) -> list[AnyEvidence]:
    """Return the evidence of a variant for a GPU.

    Args:
        subject: The variant.
        outputs: What the original says; for no more context than the variant has.
        work: Folder for what is made on the way, on the variant's disk.
        threads: Threads of the CPU provider.
        progress: Told of each step: (step, done, total).
        chunk: Tokens of a prompt that the provider computes at once, 0 for all; None for what its adapter needs.

    Raises:
        VariantUnusableError: The variant does not load or does not answer.
    """
    from phiforge.runtime.plugins import allow_software_adapter
    from phiforge.validation.held_out import Stamp

    adapter, notes = _webgpu_adapter() if subject.provider == "webgpu" else (None, ())
    way = replace(stand_in_way(notes), placement=subject.conformance)
    result = validate_variant(
        subject.folder, outputs, way, variant_sha256=subject.sha256, work=work, threads=threads, progress=progress
    )
    stamp = Stamp("cpu", threads, subject.sha256, outputs.fingerprint, (*way.notes, *outputs.notes))
    run = _Run(subject=subject, outputs=outputs, stamp=stamp, work=work, threads=threads, progress=progress)
    found: list[AnyEvidence | None] = [record for record in result.records() if record is not result.probes]
    with scored_folder(subject.folder, work) as scored:
        checks = result.probes.probes
        if is_float16(subject.folder):
            found.append(_against_float32(run, scored))
            checks = (*checks, _overflow(run))
        found.append(result.probes.model_copy(update={"probes": checks}))
        found += [_against(run, scored, *item) for item in subject.others.items()]
        if adapter is not None:
            with allow_software_adapter():
                found += _on_webgpu(run, scored, adapter, chunk)
    return [item for item in found if item is not None]


def stand_in_way(notes: tuple[str, ...] = ()) -> Way:
    """Return the way a variant for a GPU is run on the CPU; where its nodes would run is not looked at."""
    return Way(kind=Kind.SURROGATE, notes=(SURROGATE_NOTE, *notes), batch=BATCH, open=_open_stand_in)


def _open_stand_in(folder: Path, threads: int | None) -> Variant:
    from phiforge.runtime.variant import open_variant

    return open_variant(folder, threads=threads, stand_in=True)


def _against_float32(run: _Run, scored: Path) -> AnyEvidence:
    """Hold the graph on the CPU against the same in float32."""
    from phiforge.runtime.logits import logits
    from phiforge.runtime.variant import open_variant

    some = cut_reference(run.outputs.texts, COMPARED_POSITIONS)
    with _folder(run.work) as folder:
        make_float32_twin(scored, folder)
        ours, theirs = _open_stand_in(scored, run.threads), open_variant(folder, threads=run.threads)
        totals = compare(
            some, partial(logits, ours), partial(logits, theirs),
            lambda done: run.progress("float16 against float32", done, len(some.texts)),
        )  # fmt: skip
        del ours, theirs
    conditions = run.stamp.conditions(run.outputs.text_set, len(some.texts))
    return agreement(
        totals, "float32", kind=Kind.SURROGATE, conditions=conditions, variant_sha256=run.subject.sha256,
        against="the same graph and weights, all in float32",
    )  # fmt: skip


def _against(run: _Run, scored: Path, name: str, other: tuple[Path, str]) -> AnyEvidence:
    """Hold the graph on the CPU against another variant of the checkpoint, over the same texts."""
    from phiforge.runtime.logits import logits
    from phiforge.runtime.variant import open_variant

    some = cut_reference(run.outputs.texts, COMPARED_POSITIONS)
    with scored_folder(other[0], run.work) as folder:
        ours, theirs = _open_stand_in(scored, run.threads), open_variant(folder, threads=run.threads)
        totals = compare(
            some, partial(logits, ours), partial(logits, theirs),
            lambda done: run.progress(f"against {name}", done, len(some.texts)),
        )  # fmt: skip
        del ours, theirs
    conditions = run.stamp.conditions(run.outputs.text_set, len(some.texts))
    return agreement(
        totals, "other-variant", kind=Kind.SURROGATE, conditions=conditions, variant_sha256=run.subject.sha256,
        against=name, against_sha256=other[1],
    )  # fmt: skip


def _overflow(run: _Run) -> Probe:
    """Look for activations that float16 cannot hold, on calibration texts and on the longest prompts."""
    from phiforge.runtime.maxima import largest_activations

    with _folder(run.work) as folder:
        make_float32_twin(run.subject.folder, folder, maxima=True)
        prompts = _overflow_prompts(run)
        largest = largest_activations(
            folder, prompts, threads=run.threads,
            on_prompt=lambda done: run.progress("largest activations", done, len(prompts)),
        )  # fmt: skip
    return probe_overflow(largest, prompts)


def _overflow_prompts(run: _Run) -> list[list[int]]:
    opened = _open_stand_in(run.subject.folder, run.threads)
    texts = load_calibration(run.subject.calibration) if run.subject.calibration else ()
    calibration = [opened.encode(text.text) for text in texts]
    around = run.outputs.around_switch
    long = around.texts[-1].tokens.tolist() if around else None
    held_out = [text.tokens.tolist() for text in run.outputs.texts.texts]
    return overflow_prompts(calibration, held_out, long, opened.context_length)


def _webgpu_adapter() -> tuple[Adapter | None, tuple[str, ...]]:
    """The adapter that WebGPU's kernels run on, software or not; without one, the note that says why they did not."""
    from phiforge.runtime.abilities import run_probe
    from phiforge.runtime.plugins import WEBGPU, allow_software_adapter

    with allow_software_adapter():
        answer = run_probe(WEBGPU)
    if answer.fault is None and answer.adapters:
        return answer.adapters[0], ()
    return None, (f"the provider's own kernels were not run: {answer.fault or 'there is no adapter.'}",)


def _on_webgpu(run: _Run, scored: Path, adapter: Adapter, chunk: int | None) -> list[AnyEvidence]:
    """What the provider's own kernels give on an adapter."""
    from phiforge.runtime.logits import logits
    from phiforge.runtime.placement import check_placement
    from phiforge.runtime.plugins import WEBGPU
    from phiforge.runtime.variant import open_variant

    kind = Kind.EMULATED if adapter.software else Kind.MEASURED
    notes = (SOFTWARE_NOTE,) if kind is Kind.EMULATED else ()
    stamp = replace(run.stamp, provider=WEBGPU, notes=(*notes, *run.outputs.notes))
    placement = probe_placement(lambda: check_placement(run.subject.folder, WEBGPU).total)
    opened = open_variant(scored, threads=run.threads, chunk=chunk)
    some = _some_texts(run.outputs, in_chunks=opened.chunk is not None)
    drift = drift_record(
        some, partial(logits, opened), kind=kind, stamp=stamp, data=run.outputs.text_set, switch=run.outputs.switch,
        on_text=lambda done: run.progress("drift, on the provider", done, len(some.texts)),
    )  # fmt: skip
    used = opened.chunk
    del opened
    agreed, prefill = _exactly(run, scored, stamp, kind, used)
    conditions = stamp.conditions(run.outputs.text_set, 2)
    checked = Probes(kind=kind, conditions=conditions, variant_sha256=run.subject.sha256, probes=(placement, prefill))
    return [drift, *agreed, checked]


def _some_texts(outputs: ReferenceOutputs, *, in_chunks: bool) -> Reference:
    """The first texts; in chunks those up to the longrope switch, which would part the chunks' factors."""
    texts = within(outputs, outputs.switch).texts if in_chunks and outputs.switch is not None else outputs.texts
    chosen = first_texts(texts, EMULATED_POSITIONS, outputs.switch)
    return Reference(texts.top_k, tuple(text for _, text in chosen))


def _exactly(run: _Run, scored: Path, stamp: Stamp, kind: Kind, chunk: int | None) -> tuple[list[AnyEvidence], Probe]:
    """Hold the exact twin on the provider against itself on the CPU, and its prefills against its decoding."""
    from phiforge.runtime.logits import logits, logits_stepwise
    from phiforge.runtime.variant import open_variant

    with _folder(run.work) as folder:
        make_exact_twin(scored, folder)
        ours, theirs = open_variant(folder, threads=run.threads, chunk=chunk or 0), _open_stand_in(folder, run.threads)
        hold = partial(_provider_agreement, run, stamp, kind)
        found = [
            hold("provider-prefill", EMULATED_POSITIONS, partial(logits, ours), partial(logits, theirs)),
            hold(
                "provider-decode",
                DECODED_POSITIONS,
                partial(logits_stepwise, ours, prefill=1),
                partial(logits_stepwise, theirs, prefill=1),
            ),
        ]
        probe = probe_prefill(measure_prefills(partial(_in_chunks, ours), token_line(run.outputs.texts)), chunk)
        del hold, ours, theirs
    return found, probe


def probe_adapter(folder: Path, chunk: int | None, texts: Reference, work: Path) -> Probe:
    """Check whether the adapter of a variant's provider computes whole prompts right.

    Args:
        folder: The variant, or its twin, with the logits of every position.
        chunk: Tokens of a prompt that are computed at once, None for all.
        texts: Where the tokens come from.
        work: Folder on the variant's disk.
    """
    from phiforge.runtime.variant import open_variant

    with _folder(work) as twin:
        make_exact_twin(folder, twin)
        opened = open_variant(twin, chunk=chunk or 0)
        probe = probe_prefill(measure_prefills(partial(_in_chunks, opened), token_line(texts)), chunk)
        del opened
    return probe


def _provider_agreement(
    run: _Run, stamp: Stamp, kind: Kind, comparison: Comparison, positions: int, ours: LogitsOf, theirs: LogitsOf
) -> AnyEvidence:
    some = cut_reference(run.outputs.texts, positions)
    total = len(some.texts)
    totals = compare(some, ours, theirs, lambda done: run.progress(comparison.replace("-", ", "), done, total))
    return agreement(
        totals, comparison, kind=kind, conditions=stamp.conditions(run.outputs.text_set, total),
        variant_sha256=run.subject.sha256, against="the same graph on the CPU, both multiplying in floats",
    )  # fmt: skip


def _in_chunks(variant: Variant, ids: Sequence[int], chunk: int) -> Floats:
    """Logits of every token, computed so many at once."""
    from phiforge.runtime.logits import logits

    usual, variant.chunk = variant.chunk, chunk
    try:
        return logits(variant, ids)
    finally:
        variant.chunk = usual


@contextmanager
def _folder(work: Path) -> Iterator[Path]:
    """Yield an empty folder for the time of the block, on the variant's disk; a killed run's name ends in .partial."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".twin-", suffix=".partial", dir=work) as name:
        yield Path(name)
