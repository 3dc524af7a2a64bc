"""Reading the compiler's log, and the job it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from phiforge.graph.npu.context import parse_sdk, same_sdk
from phiforge.runtime.compile_job import CompileJob, GraphJob, result_file
from phiforge.runtime.compile_log import Refusal, errors_told, last_graph, refusals, section

# Lines of a real log, cut.
LOG = """\
2026-11-21 03:03:26.09 [V:onnxruntime:, qnn_execution_provider.cc:1713 LogNodeSupport] Validation PASSED for 1 nodes in OrtNodeUnit (Cast) :
\tOperator type: Cast Node name: fine_node Node index: 1

phiforge compiles /a/prefill_0.onnx
2026-11-21 03:03:26.09 [V:onnxruntime:, qnn_execution_provider.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit (Acosh) :
\tOperator type: Acosh Node name: odd_node Node index: 17
\tREASON : Operators of type `Acosh` are not supported by QNN EP.Acosh node `odd_node` will not be assigned to QNN EP.
2026-11-21 03:03:26.09 [V:onnxruntime:, qnn_execution_provider.cc:1713 LogNodeSupport] Validation FAILED for 1 nodes in OrtNodeUnit (QNNExecutionProvider_74_2) :
\tOperator type: QNNExecutionProvider_74_2 Node name: QNNExecutionProvider_QNNExecutionProvider_74_2_0 Node index: 3
\tREASON : Operators of type `QNNExecutionProvider_74_2` are not supported by QNN EP.
phiforge compiles /a/decode_0.onnx
2026-11-21 03:05:39.06 [V:onnxruntime:, qnn_execution_provider.cc:1713 LogNodeSupport] Validation FAILED for 3 nodes in OrtNodeUnit (Reshape) :
\tOperator type: DequantizeLinear Node name: in_dq Node index: 0
\tOperator type: Reshape Node name: /model/reshape Node index: 1
\tOperator type: QuantizeLinear Node name: out_q Node index: 8
\tREASON : Failed to add node.
\x1b[1;31m2026-11-21 03:02:59.4 [E:onnxruntime:, qnn_execution_provider.cc:2290 GetCapabilityImpl] QNN SetupBackend failed\x1b[m
\x1b[1;31m2026-11-21 03:02:59.4 [E:onnxruntime:, ep.cc:279 GetCapability] failed with error: QNN SetupBackend failed\x1b[m
\x1b[1;31m2026-11-21 03:02:59.4 [E:onnxruntime:, qnn_execution_provider.cc:2453 GetCapabilityImpl] Unsupported nodes in QNN EP: { name: odd_node }\x1b[m
Traceback (most recent call last):
  File "worker.py", line 2, in <module>
    main()
onnxruntime.capi.onnxruntime_pybind11_state.EPFail: [ONNXRuntimeError] : 11 : EP_FAIL : Failed to finalize QNN graph.
"""  # noqa: E501


def test_refused_nodes_are_found_in_their_graph() -> None:
    assert refusals(section(LOG, "/a/prefill_0.onnx")) == (
        Refusal("Acosh", "odd_node", "Operators of type `Acosh` are not supported by QNN EP."),
    )
    assert refusals(section(LOG, "/a/decode_0.onnx")) == (Refusal("Reshape", "/model/reshape", "Failed to add node."),)
    assert section(LOG, "/a/other.onnx") == ""
    assert last_graph(LOG) == "/a/decode_0.onnx"
    assert last_graph("") is None


def test_errors_are_told_once() -> None:
    assert errors_told(LOG) == ("QNN SetupBackend failed", "Failed to finalize QNN graph.")
    assert errors_told("") == ()
    assert errors_told("Traceback (most recent call last):\n  File x\nKeyError: 'x'\n") == ("'x'",)


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.51.0", (2, 51, 0)), ("v2.51.0.260929181845", (2, 51, 0)), ("v10.2.33", (10, 2, 33))]
)
def test_sdk_versions_are_read(version: str, numbers: tuple[int, int, int]) -> None:
    assert parse_sdk(version) == numbers


@pytest.mark.parametrize("version", ["", "2.51", "2.51.0rc1", " 2.51.0", "2.51.0\n", "x2.51.0"])
def test_unreadable_sdk_versions_agree_with_none(version: str) -> None:
    with pytest.raises(ValueError, match="no SDK version"):
        parse_sdk(version)
    assert not same_sdk(version, version)


def graph(name: str, folder: str = "out") -> GraphJob:
    return GraphJob(source=Path("src") / f"{name}.onnx", target=Path(folder) / f"{name}.onnx")


def test_binaries_are_named_after_their_targets() -> None:
    graphs = (graph("prefill_0"), graph("decode_0"))
    alone, shared = (CompileJob(graphs=graphs, shared=shared, soc_model=60) for shared in (False, True))
    assert [alone.binary(g).name for g in graphs] == ["prefill_0_qnn.bin", "decode_0_qnn.bin"]
    assert [shared.binary(g).name for g in graphs] == ["prefill_0_qnn.bin", "prefill_0_qnn.bin"]
    assert result_file(Path("work/prefill_0.job.json")) == Path("work/prefill_0.result.json")


@pytest.mark.parametrize(
    ("graphs", "facts"),
    [
        ((), {}),
        ((graph("a"), graph("a")), {}),
        ((graph("a"), graph("b", "elsewhere")), {}),
        ((graph("a"),), {"soc_model": 0}),
        ((graph("a"),), {"optimization": 4}),
        ((graph("a"),), {"attention_on_npu": True, "cpu_operators": {"GroupQueryAttention": 1}}),
    ],
)
def test_a_job_that_cannot_be_is_refused(graphs: tuple[GraphJob, ...], facts: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CompileJob.model_validate({"graphs": graphs, "shared": False, "soc_model": 60, **facts})
