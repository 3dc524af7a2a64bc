"""Validate a variant for a GPU: by its own provider where that is here, and by what stands in for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from phiforge import catalog, errors
from phiforge.evidence import Probe
from phiforge.graph.conformance import load_provider, require_conformance
from phiforge.machine import default_threads
from phiforge.pipeline import PROVIDER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.graph.conformance import Conformance
    from phiforge.validation.held_out import Said
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher

# Providers of a GPU, by their names in genai_config, with the table of what each has kernels for.
GPU_TABLES = {"dml": "directml", "webgpu": "webgpu"}
MODEL_FILE = "model.onnx"


def validate_on_gpu(
    said: Said,
    subject: Subject,
    provider: str,
    *,
    work: Path,
    threads: int | None,
    watcher: Watcher,
    others: Sequence[Subject] = (),
    chunk: int | None = None,
) -> list[AnyEvidence]:
    """Return the evidence of a variant for a GPU; arguments and errors as `validation.gpu.validate_gpu`.

    Args:
        said: What the original says.
        subject: The variant.
        provider: A key of GPU_TABLES.
        work: Folder for what is made on the way.
        threads: Threads of the CPU provider; by default the cores this process may use.
        watcher: Told of the progress.
        others: Other variants; those for the CPU are compared with it.
        chunk: Tokens of a prompt that the provider computes at once, 0 for all; None for what its adapter needs.
    """
    # Imported here: the runtime takes seconds to load.
    from phiforge.validation.gpu import GpuSubject, validate_gpu

    on_cpu = {other.name: (other.folder, other.sha256) for other in others if _is_cpu(other)}
    about = GpuSubject(
        folder=subject.folder,
        provider=provider,
        sha256=subject.sha256,
        calibration=subject.calibration,
        others=on_cpu,
        conformance=lambda folder: probe_conformance(folder, provider),
    )
    return validate_gpu(
        about, said, work=work, threads=threads or default_threads(), progress=watcher.advanced, chunk=chunk
    )


def probe_conformance(folder: Path, provider: str) -> Probe:
    """Check a variant's graph against what its provider has kernels for."""
    try:
        found = conform_to(ir.load(folder / MODEL_FILE), provider, catalog.find_project())
    except errors.ConformanceError as error:
        return Probe(name="conformance", passed=False, detail=f"{error.what} {error.why}")
    left = f", but for {len(found.misfits)} on integers, which run on the CPU" if found.misfits else ""
    detail = f"by its table {provider} has kernels for all of {found.nodes} nodes{left}"
    return Probe(name="conformance", passed=True, detail=detail)


def conform_to(model: ir.Model, provider: str, project: Path) -> Conformance:
    """Check a graph against what a provider has kernels for.

    DirectML must take every node and copy nothing, or its graph capture refuses the session; WebGPU may leave lengths
    and positions to the CPU.

    Raises:
        ConformanceError: The provider would leave nodes to the CPU, or copy values at every run.
    """
    table = load_provider(catalog.provider_path(project, GPU_TABLES[provider])).under(PROVIDER_OPTIONS[provider])
    strict = provider == "dml"
    found = require_conformance(model, table, integers_on_cpu=not strict)
    if strict and found.crossings:
        told = "; ".join(f"{item.value}, from {item.producer} to {item.consumer}" for item in found.crossings[:8])
        raise errors.ConformanceError(
            f"{len(found.crossings)} values would be copied between CPU and GPU at every run.",
            why=f"With graph capture {table.execution_provider} refuses such a session: {told}.",
            fix="Build with the pipeline of the profile; docs/conformance.md tells how such copies are found.",
        )
    return found


def _is_cpu(other: Subject) -> bool:
    return other.record is not None and other.record.provider == "cpu"
