"""Which variant of a real package this machine gets, by the runtime that is installed here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from phiforge import errors
from phiforge.machine import describe_machine
from phiforge.packaging.layout import BUILD_FOLDER, COMPONENT, COMPONENT_FOLDER, PROFILE_FOLDER
from phiforge.runtime.abilities import Answer, find_abilities
from phiforge.runtime.plugins import SOFTWARE_ADAPTER_VARIABLE
from phiforge.runtime.probe_worker import cause, probe
from phiforge.variant import RECORD_FILE, NpuFacts
from phiforge.verbs.build import BuildResult
from phiforge.verbs.doctor import doctor
from phiforge.verbs.explain import chosen_variant, explain

ROOT = Path(__file__).parents[2] / "tools"
NPU = NpuFacts(
    sdk_version="2.51.0",
    soc_model=60,
    confirmed=True,
    attention="cpu",
    kv_cache_bits=16,
    window_tokens=64,
    context_tokens=4096,
    graphs=(),
    binaries=(),
    twin_binaries=(),
)
OTHERS = {
    "directml-int4": ("DmlExecutionProvider", "dml", "gpu"),
    "qnn-a16w4": ("QNNExecutionProvider", "qnn", "npu"),
}


@pytest.fixture
def package(nano_build: BuildResult, tmp_path: Path) -> Path:
    """The embedded model's package without its models, which `explain` does not read, and with made-up variants."""
    assert nano_build.package is not None
    copied = tmp_path / "nano größer.ortpackage"
    shutil.copytree(nano_build.package, copied, ignore=shutil.ignore_patterns("*.data", "*.onnx"))
    component = json.loads(_component(copied).read_text(encoding="utf-8"))
    for name, (ep, provider, device) in OTHERS.items():
        component["variants"][name] = {"variant_directory": name, "ep": ep, "device": device}
        about = shutil.copytree(copied / BUILD_FOLDER / "cpu-int4", copied / BUILD_FOLDER / name)
        record = json.loads((about / RECORD_FILE).read_text(encoding="utf-8"))
        npu = NPU.model_dump() if device == "npu" else None
        record |= {"name": name, "provider": provider, "device": device, "npu": npu}
        (about / RECORD_FILE).write_text(json.dumps(record), encoding="utf-8")
    _component(copied).write_text(json.dumps(component), encoding="utf-8")
    return copied


def _component(package: Path) -> Path:
    return package / COMPONENT_FOLDER / COMPONENT


def _run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300", **environment},
    )


COMMAND = "import sys; from phiforge.cli import main; sys.argv[0] = 'phiforge'; main()"
WITHOUT_RUNTIME = "import sys; sys.modules['onnxruntime'] = None; " + COMMAND.removeprefix("import sys; ")


def test_the_cpu_variant_is_chosen_and_the_others_say_why_not(package: Path) -> None:
    found = explain(package)
    machine = describe_machine()
    assert found.chosen == "cpu-int4"
    assert [choice.variant for choice in found.choices] == ["qnn-a16w4", "directml-int4", "cpu-int4"]
    npu, gpu, cpu = found.choices
    assert (npu.eligible, gpu.eligible, cpu.eligible) == (False, False, True)
    assert npu.why == f"It is compiled for SC8380XP (soc_model 60); this machine is {machine.architecture}."
    assert gpu.why.startswith("DmlExecutionProvider is not in this onnxruntime 1.31.1; it comes with onnxruntime-genai")
    assert cpu.adapters == (machine.processor,)
    assert cpu.profile == "cpu-x64"
    assert chosen_variant(found) == cpu


def test_the_command_prints_a_table_and_the_choice(package: Path) -> None:
    done = _run(COMMAND, "explain", str(package))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("This machine gets cpu-int4 on ")
    assert "DmlExecutionProvider is not in this onnxruntime" in done.stdout


def test_a_package_with_nothing_for_this_machine_ends_with_33(package: Path) -> None:
    component = json.loads(_component(package).read_text(encoding="utf-8"))
    del component["variants"]["cpu-int4"]
    _component(package).write_text(json.dumps(component), encoding="utf-8")
    with pytest.raises(errors.FallbackError, match="can run no variant of nano größer"):
        chosen_variant(explain(package))
    done = _run(COMMAND, "explain", str(package))
    assert done.returncode == 33
    assert "qnn-a16w4: It is compiled for SC8380XP" in done.stderr


def test_without_onnxruntime_the_missing_wheel_and_the_command_are_told(package: Path) -> None:
    done = _run(WITHOUT_RUNTIME, "explain", str(package))
    assert done.returncode == 33
    assert "Traceback" not in done.stderr
    assert "cpu-int4: onnxruntime does not import" in done.stderr
    assert 'Do:   pip install -c constraints.txt "phiforge[cpu]"' in done.stderr


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.PackageInvalidError):
        explain(tmp_path / "nothing")


def test_a_package_without_its_records_is_refused(package: Path) -> None:
    (package / BUILD_FOLDER / "qnn-a16w4" / RECORD_FILE).unlink()
    with pytest.raises(errors.VariantUnusableError):
        explain(package)
    (package / BUILD_FOLDER / "directml-int4" / PROFILE_FOLDER / "cpu-x64.json").write_text("{", encoding="utf-8")
    with pytest.raises(errors.PhiforgeError):
        explain(package)


def test_this_machine_is_asked_and_not_only_its_wheels() -> None:
    found = find_abilities(())
    assert found.missing is None
    assert found.onnxruntime == "1.31.1"
    assert "CPUExecutionProvider" in found.providers
    assert found.adapters == ()
    assert not found.genai_has_dml


def test_a_provider_without_a_device_is_no_crash() -> None:
    assert probe("dml") == Answer()


def test_a_gpu_without_a_driver_is_found_out() -> None:
    """The plugin offers a software adapter when it is allowed, whether or not there is a Vulkan driver."""
    code = "from phiforge.runtime.abilities import find_abilities; print(find_abilities(['webgpu']).faults['webgpu'])"
    nowhere = {"VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}
    done = _run(code, **nowhere, **{SOFTWARE_ADAPTER_VARIABLE: "1"})
    assert done.stdout.strip() == (
        "Nothing runs on a software adapter: Failed to get a WebGPU adapter: No supported adapters."
    ), done.stderr
    assert done.stderr == ""


def test_the_cause_is_what_is_left_of_a_message() -> None:
    message = (
        "[ONNXRuntimeError] : 11 : EP_FAIL : /src/webgpu_context.cc:136 auto f() result.status == Success was false. "
        "Failed to get a WebGPU adapter: No supported\nadapters\n"
    )
    assert cause(message) == "Failed to get a WebGPU adapter: No supported adapters."
    assert cause("[ONNXRuntimeError] : 1 : FAIL : No such device.") == "No such device."
    assert cause("plain") == "plain."


def test_doctor_tells_of_gpus() -> None:
    found = {ability.name: ability for ability in doctor().abilities}
    assert found["run on the CPU"].detail == "onnxruntime 1.31.1, onnxruntime-genai 0.18.0"
    assert "run on a GPU (WebGPU)" in found
    assert "run on a GPU (DirectML)" not in found
