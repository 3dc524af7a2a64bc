"""Validate a variant for a GPU on a build machine: by what stands in for it, WebGPU's also by its own provider."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from phiforge import catalog, errors
from phiforge.evidence import Probe
from phiforge.graph.conformance.require import conform_to
from phiforge.graph.twin import MODEL_FILE
from phiforge.hashing import hash_file
from phiforge.machine import default_threads
from phiforge.pipeline import PROVIDER_OPTIONS
from phiforge.providers import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.validation.reference_outputs import ReferenceOutputs
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import Watcher

# Providers of a GPU, by their names in genai_config, with the table of what each has kernels for.
GPU_TABLES = {name: provider.table for name, provider in PROVIDERS.items() if provider.table is not None}


def validate_on_gpu(
    outputs: ReferenceOutputs,
    subject: Subject,
    provider: str,
    *,
    work: Path,
    threads: int | None,
    watcher: Watcher,
    others: Sequence[Subject] = (),
    chunk: int | None = None,
    project: Path | None = None,
) -> list[AnyEvidence]:
    """Return the evidence of a variant for a GPU; arguments and errors as `validation.gpu.validate_gpu`.

    Args:
        outputs: What the original says.
        subject: The variant.
        provider: A key of GPU_TABLES.
        work: Folder for what is made on the way.
        threads: Threads of the CPU provider; by default the cores this process may use.
        watcher: Told of the progress.
        others: Other variants; those for the CPU are compared with it.
        chunk: Tokens of a prompt that the provider computes at once, 0 for all; None for what its adapter needs.
        project: Where the provider's table is; found from the working folder by default.
    """
    # Imported here: the runtime takes seconds to load.
    from phiforge.validation.gpu import GpuSubject, validate_gpu

    root = project or catalog.find_project()
    on_cpu = {other.name: (other.folder, other.sha256) for other in others if _is_cpu(other)}
    about = GpuSubject(
        folder=subject.folder,
        provider=provider,
        sha256=subject.sha256,
        calibration=subject.calibration,
        others=on_cpu,
        conformance=lambda folder: probe_conformance(folder, provider, root),
    )
    return validate_gpu(
        about, outputs, work=work, threads=threads or default_threads(), progress=watcher.advanced, chunk=chunk
    )


def probe_conformance(folder: Path, provider: str, project: Path) -> Probe:
    """Check a variant's graph against what its provider has kernels for."""
    try:
        found = conform_to(ir.load(folder / MODEL_FILE), table_of(provider, project))
    except errors.ConformanceError as error:
        return Probe(name="conformance", passed=False, detail=f"{error.what} {error.why}")
    left = f", but for {len(found.misfits)} on integers, which run on the CPU" if found.misfits else ""
    detail = f"by its table {provider} has kernels for all of {found.nodes} nodes{left}"
    return Probe(name="conformance", passed=True, detail=detail)


def gpu_key(provider: str, project: Path) -> list[object]:
    """What the validation of a variant for a GPU depends on besides itself: the table, the options, the adapter."""
    # Imported here: it looks at the machine's devices by the runtime.
    from phiforge.runtime.abilities import run_probe
    from phiforge.runtime.plugins import WEBGPU, allow_software_adapter

    key: list[object] = [hash_file(table_of(provider, project)), PROVIDER_OPTIONS[provider]]
    if provider == WEBGPU:
        with allow_software_adapter():
            answer = run_probe(WEBGPU)
        key += [answer.fault, *(adapter.description for adapter in answer.adapters)]
    return key


def table_of(provider: str, project: Path) -> Path:
    """Return the file that says what a GPU's provider has kernels for."""
    return catalog.provider_path(project, GPU_TABLES[provider])


def _is_cpu(other: Subject) -> bool:
    return other.record is not None and other.record.provider == "cpu"
