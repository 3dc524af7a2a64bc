"""WebGPU's real kernels on a software Vulkan driver: right numbers, no timing, and one fault that is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from held_out import declare
from phiforge import catalog, errors
from phiforge.checkpoint.inspect import inspect_checkpoint
from phiforge.checkpoint.nano import CHECKPOINT_DIR, EVAL_DIR
from phiforge.evidence import Agreement, AnyEvidence, Drift, FreeRunning, Kind, Probe, Probes, Refusals, Tasks
from phiforge.gate import Outcome, judge
from phiforge.olive.driver import OliveWorker
from phiforge.plan import resolve
from phiforge.runtime.generate import generate
from phiforge.runtime.logits import logits, logits_stepwise
from phiforge.runtime.placement import EXECUTION_PROVIDERS, check_placement, placement
from phiforge.runtime.plugins import (
    SOFTWARE_ADAPTER_VARIABLE,
    WEBGPU,
    allow_software_adapter,
    is_software,
    register_plugin,
)
from phiforge.runtime.variant import SOFTWARE_CHUNK, open_variant
from phiforge.store import Store
from phiforge.target import load_profile
from phiforge.toolchain import toolchain
from phiforge.validation.gpu import DECODED_POSITIONS, EMULATED_POSITIONS, GpuSubject, validate_gpu
from phiforge.validation.held_out import ask_checkpoint
from phiforge.validation.reference_outputs import ReferenceOutputs
from phiforge.validation.subset import cut_reference
from phiforge.validation.twin import scored_folder
from phiforge.verbs.make_variant import make_variant
from phiforge.verbs.resolving import resolve_names
from phiforge.verbs.subject import Subject, find_subjects
from phiforge.verbs.validate_gpu import probe_conformance
from phiforge.verbs.watch import Stages, Unwatched

ROOT = Path(__file__).parents[2]
TEXTS, QUESTIONS = 16, 4
THREADS = 2


@pytest.fixture(scope="module", autouse=True)
def adapter() -> Iterator[None]:
    """Mesa's software adapter; where there is a real one, these numbers are none of it."""
    with allow_software_adapter():
        if not is_software(register_plugin(WEBGPU)[0]):
            pytest.skip("this machine has a real WebGPU adapter")
        yield


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The embedded model for WebGPU, without calibration, which takes long and changes nothing here."""
    profiles, pipelines = resolve_names(catalog.find_project(), ["webgpu-generic"], None)
    pipelines = {name: item.with_quantize_options(algorithm="k-quant") for name, item in pipelines.items()}
    facts = inspect_checkpoint(CHECKPOINT_DIR)
    plan = resolve(facts, "f" * 64, profiles, pipelines, toolchain())
    store = Store(tmp_path_factory.mktemp("webgpu") / "store")
    with store.lock(), OliveWorker() as worker:
        texts = EVAL_DIR / "calibration.jsonl"
        folder = make_variant(plan, plan.variants[0], CHECKPOINT_DIR, store, Stages(Unwatched()), texts, worker)
    (found,) = find_subjects(folder)
    return found


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> ReferenceOutputs:
    """What the original says of a part of the held-out data."""
    folder = tmp_path_factory.mktemp("held-out")
    for source, count in ((EVAL_DIR / "text.jsonl", TEXTS), (EVAL_DIR / "tasks" / "facts.jsonl", QUESTIONS)):
        target = folder / source.relative_to(EVAL_DIR)
        target.parent.mkdir(exist_ok=True)
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        target.write_text("".join(lines[:count]), encoding="utf-8")
    declare(folder / "tasks")
    return ask_checkpoint(
        CHECKPOINT_DIR, folder / "text.jsonl", folder / "tasks", context=4096, cache=folder / "cache", threads=THREADS,
        progress=lambda *_: None,
    )  # fmt: skip


def _validate(subject: Subject, outputs: ReferenceOutputs, work: Path, chunk: int | None = None) -> list[AnyEvidence]:
    about = GpuSubject(
        folder=subject.folder, provider="webgpu", sha256=subject.sha256, calibration=EVAL_DIR / "calibration.jsonl",
        others={}, conformance=lambda folder: probe_conformance(folder, "webgpu", ROOT),
    )  # fmt: skip
    return validate_gpu(about, outputs, work=work, threads=THREADS, progress=lambda *_: None, chunk=chunk)


@pytest.fixture(scope="module")
def evidence(
    subject: Subject, outputs: ReferenceOutputs, tmp_path_factory: pytest.TempPathFactory
) -> list[AnyEvidence]:
    work = tmp_path_factory.mktemp("work")
    found = _validate(subject, outputs, work)
    assert list(work.iterdir()) == []
    return found


@pytest.fixture(scope="module")
def unchunked(
    subject: Subject, outputs: ReferenceOutputs, tmp_path_factory: pytest.TempPathFactory
) -> list[AnyEvidence]:
    """The same with each prompt computed at once, over less data."""
    less = replace(
        outputs, texts=cut_reference(outputs.texts, 400), questions=(), continued=(), prompted=(), switch=None,
        around_switch=None,
    )  # fmt: skip
    return _validate(subject, less, tmp_path_factory.mktemp("unchunked"), chunk=0)


def _probes(evidence: list[AnyEvidence], kind: Kind) -> dict[str, Probe]:
    (found,) = (item for item in evidence if isinstance(item, Probes) and item.kind is kind)
    return {probe.name: probe for probe in found.probes}


def _agreement(evidence: list[AnyEvidence], comparison: str) -> Agreement:
    (found,) = (item for item in evidence if isinstance(item, Agreement) and item.comparison == comparison)
    return found


def test_what_the_kernels_say_is_emulated_and_what_the_cpu_says_is_not(evidence: list[AnyEvidence]) -> None:
    kinds = {kind: [type(item) for item in evidence if item.kind is kind] for kind in Kind}
    assert kinds[Kind.SURROGATE] == [Drift, Tasks, FreeRunning, Refusals, Agreement, Probes]
    assert kinds[Kind.EMULATED] == [Drift, Agreement, Agreement, Probes]
    assert not kinds[Kind.MEASURED] + kinds[Kind.PREDICTED]
    for item in evidence:
        emulated = item.kind is Kind.EMULATED
        assert item.conditions.provider == ("webgpu" if emulated else "cpu")
        assert any("right numbers, no timing" in note for note in item.conditions.notes) == emulated


def test_the_kernels_agree_with_the_cpu(evidence: list[AnyEvidence]) -> None:
    for comparison, positions in (("provider-prefill", EMULATED_POSITIONS), ("provider-decode", DECODED_POSITIONS)):
        found = _agreement(evidence, comparison)
        assert found.kind is Kind.EMULATED
        assert positions - 1 <= found.positions <= positions
        assert found.relative_logit_error is not None
        assert 0 < found.relative_logit_error < 0.01
        assert found.kl_mean_nats < 1e-3
        assert found.top1_agreement_fraction > 0.97


def test_drift_by_the_kernels_is_that_by_the_cpu(evidence: list[AnyEvidence]) -> None:
    drifts = {item.kind: item for item in evidence if isinstance(item, Drift)}
    emulated, surrogate = drifts[Kind.EMULATED], drifts[Kind.SURROGATE]
    assert EMULATED_POSITIONS - TEXTS <= emulated.positions <= EMULATED_POSITIONS < surrogate.positions
    both = emulated.kl_nats.standard_error + surrogate.kl_nats.standard_error
    assert abs(emulated.kl_nats.mean - surrogate.kl_nats.mean) < 3 * both


def test_placement_and_prefill_pass(evidence: list[AnyEvidence]) -> None:
    probes = _probes(evidence, Kind.EMULATED)
    assert set(probes) == {"placement", "prefill"}
    assert all(probe.passed and probe.blocking for probe in probes.values())
    assert "computes prefills of 32 or more tokens wrongly" in probes["prefill"].detail
    assert probes["prefill"].detail.endswith("prompts are computed in chunks of 31 tokens, which are right")
    assert _probes(evidence, Kind.SURROGATE)["conformance"].passed


def test_without_chunks_the_fault_is_found_and_told_in_words(unchunked: list[AnyEvidence]) -> None:
    probe = _probes(unchunked, Kind.EMULATED)["prefill"]
    assert not probe.passed
    assert probe.blocking
    assert probe.detail.startswith("this adapter computes prefills of 32 or more tokens wrongly, from token ")
    assert probe.detail.endswith("; let prompts be computed in chunks of at most 31 tokens")
    prefill, decode = (_agreement(unchunked, f"provider-{way}").relative_logit_error for way in ("prefill", "decode"))
    assert prefill is not None
    assert decode is not None
    assert decode < 0.01 < prefill


def test_the_profile_lets_the_one_pass_and_not_the_other(
    subject: Subject, evidence: list[AnyEvidence], unchunked: list[AnyEvidence]
) -> None:
    profile = load_profile(ROOT / "targets" / "webgpu-generic.toml")

    def failed(records: list[AnyEvidence]) -> set[str]:
        found = judge(profile.budgets, profile.accepts, records, variant_sha256=subject.sha256, variant_bytes=1)
        return {item.budget for item in found.findings if item.outcome is Outcome.FAIL}

    assert failed(evidence) == set()
    assert {"probe:prefill", "provider_relative_error_max"} <= failed(unchunked)


def test_only_integers_are_left_to_the_cpu(subject: Subject) -> None:
    facts = check_placement(subject.folder, "webgpu")
    assert facts.strays == {}
    on_cpu = {operator for (where, operator), _ in facts.nodes.items() if where == EXECUTION_PROVIDERS["cpu"]}
    on_gpu = {operator for (where, operator), _ in facts.nodes.items() if where == EXECUTION_PROVIDERS["webgpu"]}
    assert {"MatMulNBits", "GroupQueryAttention", "GatherBlockQuantized", "GatherND"} <= on_gpu
    assert on_cpu <= {"ArgMax", "Cast", "Gather", "Greater", "If", "ReduceSum", "Shape", "Sub", "Unsqueeze"}
    assert not on_gpu & {"Shape"}
    assert "Shape" in on_cpu


def test_a_float_node_on_the_cpu_is_named(subject: Subject, tmp_path: Path) -> None:
    """A node that WebGPU has no kernel for is put between the last norm and the head."""
    folder = tmp_path / "variant"
    shutil.copytree(subject.folder, folder)
    model = ir.load(folder / "model.onnx")
    (head,) = (node for node in model.graph if node.outputs[0].name == "logits")
    hidden = head.inputs[0]
    assert hidden is not None
    node = ir.node("Hardmax", inputs=[hidden], name="/stray")
    node.outputs[0].type, node.outputs[0].shape, node.outputs[0].name = hidden.type, hidden.shape, "stray"
    model.graph.insert_before(head, node)
    head.replace_input_with(0, node.outputs[0])
    ir.save(model, folder / "model.onnx")
    strays = placement(folder, "webgpu").elsewhere()
    assert ("CPUExecutionProvider", "Hardmax") in strays
    with pytest.raises(errors.FallbackError, match="1 Hardmax on CPUExecutionProvider"):
        check_placement(folder, "webgpu")
    probe = probe_conformance(folder, "webgpu", ROOT)
    assert not probe.passed
    assert "Hardmax /stray (no kernel for this operator)" in probe.detail


def test_a_software_adapter_takes_prompts_in_chunks_unless_told_otherwise(subject: Subject) -> None:
    assert open_variant(subject.folder).chunk == SOFTWARE_CHUNK == 31
    assert open_variant(subject.folder, chunk=0).chunk is None
    assert open_variant(subject.folder, chunk=16).chunk == 16
    assert open_variant(subject.folder, stand_in=True).chunk is None


def test_chunks_give_what_single_tokens_give(subject: Subject, outputs: ReferenceOutputs, tmp_path: Path) -> None:
    ids = [int(token) for text in outputs.texts.texts for token in text.tokens][:80]
    with scored_folder(subject.folder, tmp_path) as folder:
        opened = open_variant(folder, threads=THREADS)
        chunked, single = logits(opened, ids), logits_stepwise(opened, ids, 1)
    assert chunked.shape == (80, opened.vocab_size)
    # accuracy_level 4 multiplies in int8, so the two round otherwise.
    assert np.sqrt(((chunked - single) ** 2).mean()) < 0.05 * single.std()
    assert (chunked.argmax(axis=1) == single.argmax(axis=1)).mean() > 0.9


def test_a_long_prompt_is_answered_as_on_the_cpu(subject: Subject) -> None:
    opened, stand_in = open_variant(subject.folder, threads=THREADS), open_variant(subject.folder, stand_in=True)
    question = "Ana has 3 apples and gets 4 more. How many apples does Ana have?"
    prompt = opened.encode(opened.apply_chat_template([{"role": "user", "content": f"{question} " * 4}]))
    assert len(prompt) > 2 * SOFTWARE_CHUNK
    assert generate(opened, [prompt], max_new_tokens=8) == generate(stand_in, [prompt], max_new_tokens=8)


REGISTER = """
import sys
from phiforge import errors
from phiforge.runtime.plugins import allow_software_adapter, register_plugin
try:
    register_plugin("webgpu")
except errors.DependencyMissingError as error:
    print(error.why)
with allow_software_adapter():
    print(len(register_plugin("webgpu")), len(register_plugin("webgpu")))
"""


def test_an_adapter_that_is_allowed_later_is_found_then() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    environment.pop(SOFTWARE_ADAPTER_VARIABLE, None)
    done = subprocess.run([sys.executable, "-c", REGISTER], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    refused, found = done.stdout.splitlines()
    assert f"without a GPU, {SOFTWARE_ADAPTER_VARIABLE}=1" in refused
    assert found == "1 1"


def test_the_variant_names_its_options(subject: Subject) -> None:
    config = json.loads((subject.folder / "genai_config.json").read_text(encoding="utf-8"))
    options = config["model"]["decoder"]["session_options"]["provider_options"]
    assert options == [{"webgpu": {"enableGraphCapture": "0", "validationMode": "basic"}}]
