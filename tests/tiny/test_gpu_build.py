"""One build of the embedded model for a CPU, DirectML and WebGPU, and the process of Olive that the variants share.

Nothing of a GPU runs here: what DirectML's variant computes is shown by the CPU provider, and WebGPU finds no adapter.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import psutil
import pytest

import phiforge
from held_out import write_part
from judged import unpassed
from phiforge import errors
from phiforge.checkpoint.nano import CHECKPOINT_DIR
from phiforge.evidence import (
    Agreement,
    AnyEvidence,
    Drift,
    FreeRunning,
    Kind,
    Prediction,
    Probes,
    Refusals,
    Tasks,
    load_evidence,
)
from phiforge.gate import Outcome
from phiforge.olive.driver import OliveRun, OliveWorker, _start, _wait, run_olive
from phiforge.olive.worker import ORPHANED
from phiforge.packaging.layout import EVIDENCE_FOLDER, load_component, variant_folders
from phiforge.pipeline import load_pipeline
from phiforge.plan import Plan, resolved_workflow
from phiforge.runtime import abilities, plugins, variant
from phiforge.runtime.placement import check_placement
from phiforge.runtime.variant import open_variant
from phiforge.verbs.build import BuildResult
from phiforge.verbs.watch import StageRecord, Unwatched

ROOT = Path(__file__).parents[2]
TARGETS = ("cpu-x64", "directml-generic", "webgpu-generic")
VARIANTS = ("cpu-int4", "directml-int4", "webgpu-int4")
GPUS = VARIANTS[1:]
TEXTS, QUESTIONS = 24, 8


class Counting:
    """Watches a build: which steps ran to their end, and which passes Olive had finished when a variant was made.

    `spent` is the processor time of each stage that was done, in seconds.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.finished: Counter[str] = Counter()
        self.passes: Counter[str] = Counter()
        self.spent: dict[str, float] = {}
        self._before = 0.0

    def resolved(self, plan: Plan) -> None:
        pass

    def began(self, stage: str) -> None:
        self._before = _processor_seconds()

    def advanced(self, step: str, done: int, total: int) -> None:
        self.finished[step] += done == total

    def ended(self, record: StageRecord) -> None:
        if not record.reused:
            self.spent[record.stage] = _processor_seconds() - self._before
        if record.stage.startswith("build "):
            notes = self.output.glob("store/unfinished/olive-*/cache/*/runs/*/run.json")
            self.passes = Counter(json.loads(note.read_text(encoding="utf-8"))["pass_name"] for note in notes)


def _processor_seconds() -> float:
    """Processor time of this process and of those it started, whether they ended or not."""
    own = psutil.Process()
    times = own.cpu_times()
    spent = times.user + times.system + times.children_user + times.children_system
    for child in own.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return float(spent)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the embedded held-out data: text.jsonl and tasks/."""
    return write_part(tmp_path_factory.mktemp("held-out"), texts=TEXTS, questions=QUESTIONS)


@pytest.fixture(scope="module")
def without_adapter() -> Iterator[None]:
    """No plugin for WebGPU; patched is what no other module imports by name, since that would outlast these tests."""
    absent = replace(plugins.PLUGINS["webgpu"], module="no_such_plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "plugin_devices", lambda name: [])
        patch.setitem(plugins.PLUGINS, "webgpu", absent)
        patch.setattr(abilities, "run_probe", lambda provider: abilities.Answer(fault="There is none."))
        yield


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Counting:
    return Counting(tmp_path_factory.mktemp("gpu"))


def _build(counting: Counting, data: Path) -> BuildResult:
    return phiforge.build(
        CHECKPOINT_DIR, targets=TARGETS, output=counting.output, texts=data / "text.jsonl", tasks=data / "tasks",
        watcher=counting,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(counting: Counting, data: Path, without_adapter: None) -> BuildResult:
    return _build(counting, data)


@pytest.fixture(scope="module")
def folders(built: BuildResult) -> dict[str, Path]:
    assert built.package is not None
    return variant_folders(built.package)


@pytest.fixture(scope="module")
def evidence(built: BuildResult) -> dict[str, list[AnyEvidence]]:
    assert built.package is not None
    return {
        name: [load_evidence(path) for path in sorted((built.package / EVIDENCE_FOLDER / name).glob("*.json"))]
        for name in VARIANTS
    }


def drift_of(records: list[AnyEvidence]) -> Drift:
    (found,) = (item for item in records if isinstance(item, Drift))
    return found


def test_the_checkpoint_is_rotated_and_quantized_once_for_all_three(built: BuildResult, counting: Counting) -> None:
    once = {"phiforgerotate": 1, "phiforgequantize": 1, "phiforgeexport": 3}
    assert counting.passes == once
    steps = {step: counting.finished[step] for step in ("rotate", "quantize", "export")}
    assert steps == {"rotate": 1, "quantize": 1, "export": 3}
    assert [variant.name for variant in built.plan.variants] == list(VARIANTS)


def test_two_more_variants_take_less_than_half_of_the_first_again(built: BuildResult, counting: Counting) -> None:
    """By processor time, which other work does not lengthen."""
    assert not any(item.reused for item in built.stages)
    seconds = {stage: spent for stage, spent in counting.spent.items() if stage.startswith(("build ", "conformance"))}
    assert len(seconds) == 1 + len(VARIANTS)
    # The process is started, and torch imported, in the stage that comes first.
    assert sum(seconds.values()) < 1.5 * (seconds["conformance"] + seconds["build cpu-int4"])


def _codes(folder: Path, *names: str) -> bytes:
    """The bytes that initializers of a variant's graph point at, one after another."""
    initializers = ir.load(folder / "model.onnx").graph.initializers
    data = (folder / "model.onnx.data").read_bytes()
    found = b""
    for name in names:
        tensor = initializers[name].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.dtype is ir.DataType.UINT8
        found += data[tensor.offset or 0 :][: tensor.length]
    return found


@pytest.mark.parametrize("part", ["qweight", "qzeros"])
def test_codes_are_the_same_bytes_in_every_variant(folders: dict[str, Path], part: str) -> None:
    layer = "model.layers.0"
    for stem in ("model.embed_tokens", "lm_head", f"{layer}.mlp.down_proj", f"{layer}.mlp.gate_proj"):
        found = {_codes(folder, f"{stem}.{part}") for folder in folders.values()}
        assert len(found) == 1
        assert len(found.pop()) > 100
    # DirectML's attention takes query, key and value apart; the rows are the fused ones.
    fused = {_codes(folders[name], f"{layer}.attn.qkv_proj.{part}") for name in ("cpu-int4", "webgpu-int4")}
    assert fused == {_codes(folders["directml-int4"], *(f"{layer}.attn.{each}_proj.{part}" for each in "qkv"))}


def test_a_package_holds_three_variants_for_three_providers(built: BuildResult) -> None:
    assert built.package is not None
    entries = load_component(built.package).variants
    assert {name: (entry.ep, entry.device) for name, entry in entries.items()} == {
        "cpu-int4": ("CPUExecutionProvider", "cpu"),
        "directml-int4": ("DmlExecutionProvider", "gpu"),
        "webgpu-int4": ("WebGpuExecutionProvider", "gpu"),
    }


def test_a_gpus_options_are_written_down_and_not_left_to_defaults(folders: dict[str, Path]) -> None:
    """A folder with no options for its provider was seen to run on the CPU without a word."""
    # With graph capture DirectML refuses a session of which a node would run on the CPU.
    directml, webgpu = {"enable_graph_capture": "1"}, {"enableGraphCapture": "0", "validationMode": "basic"}
    for name, provider, told in (("directml-int4", "dml", directml), ("webgpu-int4", "webgpu", webgpu)):
        config = json.loads((folders[name] / "genai_config.json").read_text(encoding="utf-8"))
        options = config["model"]["decoder"]["session_options"]["provider_options"]
        assert options == [{provider: told}]


def test_nothing_fails_and_what_no_device_has_measured_is_unverified(built: BuildResult) -> None:
    # A part of the questions is too few for the bound of the recovery: docs/decisions/0016-what-passes-a-budget.md.
    few = {"answer_recovery_fraction_min"}
    assert {item.budget for item in unpassed(built.verdicts["cpu-x64"])} == few
    for target in TARGETS[1:]:
        verdict = built.verdicts[target]
        assert [item.reason for item in verdict.findings if item.outcome is Outcome.FAIL] == []
        assert verdict.outcome is Outcome.UNVERIFIED
    findings = built.verdicts["directml-generic"].findings
    waiting = {item.budget for item in findings if item.outcome is Outcome.UNVERIFIED}
    assert waiting == {"decode_tokens_per_s_min", "ttft_p50_ms_max"} | few


@pytest.mark.parametrize("name", GPUS)
def test_without_its_device_all_evidence_is_surrogate(evidence: dict[str, list[AnyEvidence]], name: str) -> None:
    (predicted,) = (item for item in evidence[name] if item.kind is Kind.PREDICTED)
    found = [item for item in evidence[name] if item is not predicted]
    assert isinstance(predicted, Prediction)
    assert {item.kind for item in found} == {Kind.SURROGATE}
    assert Counter(type(item) for item in found) == {
        Drift: 1, Tasks: 1, FreeRunning: 1, Refusals: 1, Probes: 1, Agreement: 2
    }  # fmt: skip
    for item in found:
        assert item.conditions.provider == "cpu"
        assert any("the same graph on the CPU provider" in note for note in item.conditions.notes)
        not_run = [note for note in item.conditions.notes if "kernels were not run: There is none." in note]
        assert len(not_run) == (name == "webgpu-int4")


def test_float16_costs_next_to_nothing(evidence: dict[str, list[AnyEvidence]]) -> None:
    agreements = {item.comparison: item for item in evidence["directml-int4"] if isinstance(item, Agreement)}
    error = agreements["float32"].relative_spread_error
    assert error is not None
    assert 0 < error < 0.005
    assert agreements["float32"].positions > 500
    assert agreements["other-variant"].against == "cpu-int4"
    assert agreements["other-variant"].kl_mean_nats < 1e-3


def test_drift_is_that_of_the_cpu_within_its_error(evidence: dict[str, list[AnyEvidence]]) -> None:
    cpu = drift_of(evidence["cpu-int4"])
    for name in GPUS:
        gpu = drift_of(evidence[name])
        assert gpu.positions == cpu.positions
        assert abs(gpu.kl_nats.mean - cpu.kl_nats.mean) < 2 * cpu.kl_nats.standard_error
        assert gpu.kl_nats != cpu.kl_nats


@pytest.mark.parametrize("name", GPUS)
def test_conformance_and_the_range_of_float16_are_shown(evidence: dict[str, list[AnyEvidence]], name: str) -> None:
    (found,) = (item for item in evidence[name] if isinstance(item, Probes))
    probes = {probe.name: probe for probe in found.probes}
    assert probes["conformance"].passed
    assert probes["float16-range"].passed
    assert probes["float16-range"].blocking
    assert "% of float16's 65504" in probes["float16-range"].detail
    assert "placement" not in probes
    assert [probe.detail for probe in found.probes if probe.blocking and not probe.passed] == []


def test_directml_is_refused_where_it_is_not_and_never_runs_on_the_cpu(folders: dict[str, Path]) -> None:
    folder = folders["directml-int4"]
    with pytest.raises(errors.VariantUnusableError, match="DML provider requested"):
        open_variant(folder)
    with pytest.raises(errors.PhiforgeError, match=r"DML|DmlExecutionProvider"):
        check_placement(folder, "dml")
    stand_in = open_variant(folder, stand_in=True)
    assert stand_in.provider == "cpu"
    assert stand_in.chunk is None


def test_webgpu_is_refused_without_an_adapter(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # What was registered before in this process is remembered.
    monkeypatch.setattr(variant, "_register", variant._register.__wrapped__)
    with pytest.raises(errors.DependencyMissingError, match="WebGPU provider is not here"):
        open_variant(folders["webgpu-int4"])
    assert open_variant(folders["webgpu-int4"], stand_in=True).provider == "cpu"


def test_a_second_build_does_nothing(built: BuildResult, counting: Counting, data: Path) -> None:
    before = counting.finished.copy()
    again = _build(counting, data)
    assert [stage.stage for stage in again.stages if not stage.reused] == []
    assert again.content_sha256 == built.content_sha256
    assert {step: counting.finished[step] for step in ("rotate", "quantize", "export")} == {
        step: before[step] for step in ("rotate", "quantize", "export")
    }


def _run(checkpoint: Path, folder: Path, name: str) -> OliveRun:
    pipeline = load_pipeline(ROOT / "pipelines" / "cpu-int4-k-quant.yaml")
    return OliveRun(
        workflow=resolved_workflow(pipeline), checkpoint=checkpoint, work=folder / name, output=folder / f"{name}-out"
    )


@pytest.mark.long
def test_a_process_that_was_killed_is_replaced_and_one_killed_at_work_is_told(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    """As a system short of memory kills: first between two runs, then within one."""
    with OliveWorker() as worker:
        first_run, second_run = (_run(small_checkpoint, tmp_path, name) for name in "ab")
        run_olive(first_run, lambda *_: None, worker)
        first = worker._process
        assert first is not None
        first.kill()
        first.wait()
        steps: list[str] = []

        def kill(step: str, *_: int) -> None:
            steps.append(step)
            assert worker._process is not None
            worker._process.kill()
            worker._process.wait()

        with pytest.raises(errors.BuildFailedError, match="Olive was killed while it worked"):
            run_olive(second_run, kill, worker)
        second = worker._process
        assert steps[0] == "quantize"
        assert (first_run.output / "model.onnx").is_file()
        assert not (second_run.output / "model.onnx").exists()
        assert second is not None
        assert second.pid != first.pid
    for process in (first, second):
        assert process.stdin is not None
        assert process.stdin.closed


def test_runs_share_a_process_that_ends_with_them(tmp_path: Path) -> None:
    """What is asked for here fails before anything is loaded; a process that was started is kept for the next run."""
    events, log = tmp_path / "events.jsonl", tmp_path / "olive.log"
    codes = []
    with OliveWorker() as worker:
        pids = []
        for _ in range(2):
            events.write_bytes(b"")
            codes.append(worker.run(["no-such-command"], tmp_path, events, log, lambda *_: None))
            assert worker._process is not None
            pids.append(worker._process.pid)
        process = worker._process
        assert process is not None
    assert pids[0] == pids[1]
    assert codes[0] == codes[1] != 0
    assert process.poll() is not None


def test_a_process_without_a_driver_ends(tmp_path: Path) -> None:
    process = _start(tmp_path / "olive.log")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=600) == ORPHANED


def test_an_event_that_is_read_half_written_counts_once_it_is_whole(tmp_path: Path) -> None:
    events, told = tmp_path / "events.jsonl", []
    events.touch()
    whole = '{"event": "progress", "step": "quantize", "done": 1, "total": 2}\n{"event": "finished", "code": 3}\n'
    parts = [whole[:30], whole[30:80], whole[80:]]

    class Writing:
        """A process that writes a part each time it is asked how it is."""

        returncode = 0

        def poll(self) -> int | None:
            if not parts:
                return 0
            with events.open("a", encoding="utf-8") as file:
                file.write(parts.pop(0))
            return None

    start = time.monotonic()
    code = _wait(Writing(), events, lambda *item: told.append(item))  # type: ignore[arg-type]
    assert (code, told) == (3, [("quantize", 1, 2)])
    assert time.monotonic() - start < 10


def test_a_graph_that_the_gpu_would_not_take_is_refused_before_anything_is_quantized(tmp_path: Path) -> None:
    text = (ROOT / "pipelines" / "directml-int4.yaml").read_text(encoding="utf-8")
    pipeline = tmp_path / "quantized-table.yaml"
    pipeline.write_text(text.replace("embedding: unpacked", "embedding: quantized"), encoding="utf-8")
    steps = _Steps()
    with pytest.raises(errors.ConformanceError, match="does not take 1 of") as caught:
        phiforge.build(
            CHECKPOINT_DIR, targets=["directml-generic"], pipeline=str(pipeline), output=tmp_path, watcher=steps
        )
    assert "GatherBlockQuantized" in caught.value.why
    assert steps.seen.isdisjoint({"rotate", "quantize", "export"})


class _Steps(Unwatched):
    """Keeps the names of all steps."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def advanced(self, step: str, done: int, total: int) -> None:
        self.seen.add(step)
