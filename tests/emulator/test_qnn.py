"""The installed wheel: its plugin, its SDK, and where a decoder in stages runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from emulator.parts import write_part
from phiforge import errors
from phiforge.graph.npu.context import parse_sdk
from phiforge.runtime.failures import ORT_ERRORS
from phiforge.runtime.placement import check_placement
from phiforge.runtime.plugins import register_plugin
from phiforge.runtime.qnn import QNN_PROVIDER, check_sdk, sdk_version, session_options

QNN_STAGE = {"provider_options": [{"qnn": {"backend_type": "htp", "soc_model": "60"}}]}


def test_the_plugin_is_registered_once() -> None:
    devices = register_plugin("qnn")
    assert {device.ep_name for device in devices} == {QNN_PROVIDER}
    assert len(register_plugin("qnn")) == len(devices)


def test_older_and_equal_binaries_pass(plain: Path) -> None:
    for version in (sdk_version(), f"v{sdk_version()}.260929181845", "2.9.99", "v1.51.0.1"):
        check_sdk(version, plain)


@pytest.mark.parametrize("version", ["2.99.0", "v3.0.0.1", "", "2", "newest", "v2.51.0-beta", "٢.٥.٠"])
def test_newer_and_unknown_binaries_are_refused(plain: Path, version: str) -> None:
    with pytest.raises(errors.SdkTooOldError) as caught:
        check_sdk(version, plain)
    assert version in caught.value.what
    assert sdk_version() in caught.value.what


def test_the_version_can_be_compared() -> None:
    assert parse_sdk(sdk_version()) >= (2, 51, 0)


def test_a_session_may_forbid_the_cpu(plain: Path) -> None:
    with pytest.raises(ORT_ERRORS, match="fallback to CPU EP has been explicitly disabled"):
        _ = ort.InferenceSession(
            plain / "src" / "decode_0.onnx", session_options({"soc_model": "60"}, cpu_fallback=False)
        )


@pytest.fixture
def staged(plain: Path, tmp_path: Path) -> Path:
    """A variant in stages: two compiled ones between two of the CPU."""
    for path in (plain / "out").iterdir():
        shutil.copy(path, tmp_path)
    for name in ("embeddings", "lm_head"):
        values = [helper.make_tensor_value_info(kind, TensorProto.FLOAT, [1]) for kind in ("in", "out")]
        graph = helper.make_graph([helper.make_node("Neg", ["in"], ["out"])], name, values[:1], values[1:])
        opsets = [helper.make_opsetid("", 21)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / f"{name}.onnx")
    stages: dict[str, dict[str, Any]] = {
        name: {"filename": f"{name}.onnx", "session_options": QNN_STAGE} for name in ("prefill_0", "decode_0")
    }
    stages = {"embeddings": {"filename": "embeddings.onnx"}, **stages, "lm_head": {"filename": "lm_head.onnx"}}
    model = {"vocab_size": 8, "context_length": 64, "eos_token_id": 0, "decoder": {"pipeline": [stages]}}
    (tmp_path / "genai_config.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("provider", ["qnn", "cpu"])
def test_each_stage_runs_where_it_says(staged: Path, provider: str) -> None:
    facts = check_placement(staged, provider)
    assert facts.promised == QNN_PROVIDER
    assert facts.nodes == {
        (QNN_PROVIDER, "EPContext"): 6,
        ("CPUExecutionProvider", "GroupQueryAttention"): 4,
        ("CPUExecutionProvider", "Neg"): 2,
    }
    assert not facts.strays


def test_another_provider_is_not_promised_by_stages(staged: Path) -> None:
    with pytest.raises(errors.FallbackError):
        check_placement(staged, "cuda")


def test_a_node_that_qnn_leaves_is_found(staged: Path) -> None:
    write_part(staged / "decode_0.onnx", tokens=1, odd="Acosh")
    with pytest.raises(errors.FallbackError) as caught:
        check_placement(staged, "qnn")
    assert "1 Acosh on CPUExecutionProvider" in caught.value.why
    assert "GroupQueryAttention" not in caught.value.why


def test_a_stage_that_does_not_load_is_told(staged: Path) -> None:
    (staged / "decode_0_qnn.bin").unlink()
    with pytest.raises(errors.VariantUnusableError) as caught:
        check_placement(staged, "qnn")
    assert "decode_0.onnx" in caught.value.why
