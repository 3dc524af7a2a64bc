"""The ranges of a quantized decoder's activations, against transformers' whole model with the same weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from broken.checkpoints import make_checkpoint
from phiforge import errors
from phiforge.activations import ACTIVATIONS_FILE, expected_names, layer_site, load_ranges
from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.nano import EVAL_DIR
from phiforge.checkpoint.weights import open_weights
from phiforge.decoder.decoder import HEAD_ROWS, Decoder
from phiforge.graph.rotary import move_tables_out
from phiforge.hashing import hash_file
from phiforge.olive.builder import build_graph
from phiforge.olive.calibrate_activations import calibrate_activations
from phiforge.olive.checkpoint_files import WEIGHTS_FILE
from phiforge.olive.quantize_checkpoint import quantize_checkpoint
from phiforge.olive.quantized_rows import QuantizedRows
from phiforge.pipeline import QuantizeOptions
from phiforge.plan import plan_weights
from phiforge.quantize import dequantize, quantize_rows

TEXT = "Ana has 3 apples and gets 4 more. What is 12 + 30? It is 42. Ben lives in a small town. "
SMALL_TEXT = [list(range(5, 60))]

# Least and greatest value by name.
Bounds = dict[str, tuple[float, float]]


def silent(*_: object) -> None:
    """Take progress and do nothing."""


def options(**changes: Any) -> QuantizeOptions:
    given: dict[str, Any] = {"algorithm": "rtn", "bits": 4, "block_size": 32, "symmetric": True}
    return QuantizeOptions(type="PhiforgeQuantize", **(given | changes))


def quantize(source: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    quantize_checkpoint(source, folder, options(**changes), threads=2, progress=silent)
    return folder


def calibrate(quantized: Path, folder: Path, texts: Sequence[Sequence[int]]) -> None:
    folder.mkdir()
    calibrate_activations(quantized, folder, texts, work=folder / "work", threads=2, progress=silent)


@pytest.fixture(scope="module")
def quantized_nano(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantize(nano_checkpoint, tmp_path_factory.mktemp("quantized") / "nano")


def test_ranges_are_those_of_the_whole_model(nano_checkpoint: Path, quantized_nano: Path, tmp_path: Path) -> None:
    """The longer text is beyond the longrope switch and counts in two pieces, as short as an NPU's graphs are."""
    ids = AutoTokenizer.from_pretrained(nano_checkpoint)(TEXT * 40)["input_ids"]
    calibrate(quantized_nano, tmp_path / "calibrated", [ids[:300], ids[20:170]])
    found = load_ranges(tmp_path / "calibrated" / ACTIVATIONS_FILE)
    model = AutoModelForCausalLM.from_pretrained(nano_checkpoint, dtype=torch.float32, attn_implementation="eager")
    fill(model, quantized_nano)
    expected = whole_model(model, [ids[:256], ids[256:300], ids[20:170]])
    assert list(expected) == expected_names(6)
    assert set(found) == set(expected)
    for name, (low, high) in expected.items():
        tolerance = 1e-4 * (high - low)
        assert found[name].minimum == pytest.approx(low, abs=tolerance), name
        assert found[name].maximum == pytest.approx(high, abs=tolerance), name


def fill(model: Any, quantized: Path) -> None:
    """Give a model the weights that symmetric codes stand for, computed here from the stored bytes."""
    tensors = load_file(quantized / WEIGHTS_FILE)
    for name in [name for name in tensors if name.endswith(".qweight")]:
        module = name.removesuffix(".qweight")
        codes, scales = tensors[name], tensors[f"{module}.scales"]
        if codes.shape[1] == 16 * scales.shape[1]:
            codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(len(codes), -1)
            middle = 8
        else:
            middle = 128
        weight = (codes.astype(np.float32) - middle) * np.repeat(scales, 32, axis=1)
        model.get_submodule(module).weight.data = torch.from_numpy(weight)
    model.tie_weights()


def whole_model(model: Any, texts: Sequence[Sequence[int]]) -> Bounds:
    seen: Bounds = dict.fromkeys(expected_names(len(model.model.layers)), (math.inf, -math.inf))

    def see(name: str, values: torch.Tensor) -> None:
        low, high = seen[name]
        seen[name] = min(low, float(values.min())), max(high, float(values.max()))

    for index, layer in enumerate(model.model.layers):
        watch(layer, lambda site, values, index=index: see(layer_site(index, site), values))
    model.model.norm.register_forward_hook(lambda _module, _inputs, output: see("final_norm", output))
    see("embedding", model.model.embed_tokens.weight.detach())
    with torch.inference_mode():
        for text in texts:
            result = model(torch.tensor([list(text)]), use_cache=True)
            see("logits", result.logits)
            for index, cache in enumerate(result.past_key_values.layers):
                see(layer_site(index, "key"), cache.keys)
                see(layer_site(index, "value"), cache.values)
    return seen


def watch(layer: Any, see: Any) -> None:
    def at(module: Any, site: str, entry: str | None = None) -> None:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            see(site, output)
            if entry:
                see(entry, inputs[0])

        module.register_forward_hook(hook)

    def at_gate_up(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        half = output.shape[-1] // 2
        gate = output[..., :half]
        see("gate", gate)
        see("up", output[..., half:])
        see("sigmoid", torch.sigmoid(gate))
        see("silu", torch.nn.functional.silu(gate))

    at(layer, "residual")
    at(layer.input_layernorm, "input_norm")
    at(layer.self_attn.qkv_proj, "qkv")
    at(layer.self_attn.o_proj, "attention_output", "attention")
    at(layer.post_attention_layernorm, "post_attention_norm", "attention_residual")
    layer.mlp.gate_up_proj.register_forward_hook(at_gate_up)
    at(layer.mlp.down_proj, "mlp_output", "product")


def test_the_checkpoint_is_handed_on_whole(quantized_nano: Path, tmp_path: Path) -> None:
    calibrate(quantized_nano, tmp_path / "calibrated", SMALL_TEXT)
    handed = {path.name: hash_file(path) for path in (tmp_path / "calibrated").iterdir()}
    del handed[ACTIVATIONS_FILE]
    assert handed == {path.name: hash_file(path) for path in quantized_nano.iterdir()}


def test_more_tokens_than_the_head_takes(quantized_nano: Path, tmp_path: Path) -> None:
    """Every range but the logits' is over all tokens; more of them never narrow one."""
    texts = [[7 * number % 1000 for number in range(HEAD_ROWS // 4)]]
    calibrate(quantized_nano, tmp_path / "few", texts)
    more = [*texts, *[[(start + 3 * number) % 1000 for number in range(250)] for start in range(8)]]
    calibrate(quantized_nano, tmp_path / "many", more)
    few, many = (load_ranges(tmp_path / name / ACTIVATIONS_FILE) for name in ("few", "many"))
    for name in few.keys() - {"logits"}:
        slack = 1e-5 * few[name].magnitude
        assert many[name].minimum <= few[name].minimum + slack, name
        assert many[name].maximum >= few[name].maximum - slack, name


@pytest.mark.parametrize("changes", [{"symmetric": False}, {"bits": 8}, {"symmetric": False, "lm_head_bits": 4}])
@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_what_the_codes_stand_for(tied: bool, changes: dict[str, Any], tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", hidden_size=96, tied=tied)
    rows, weights = QuantizedRows(quantize(source, tmp_path / "quantized", **changes)), open_weights(source)
    for weight in plan_weights(load_config(source), options(**changes)):
        name = f"{weight.module}.weight"
        expected = dequantize(quantize_rows(weights.read(name), weight.spec, "rtn"))
        np.testing.assert_array_equal(rows.read(name), expected)
        np.testing.assert_array_equal(rows.read_rows(name, 3, 17), expected[3:17])
    head = "model.embed_tokens.weight" if tied else "lm_head.weight"
    np.testing.assert_array_equal(rows.read("lm_head.weight"), rows.read(head))
    norm = "model.layers.1.input_layernorm.weight"
    np.testing.assert_array_equal(rows.read(norm), weights.read(norm))


def test_zero_weights_are_a_constant_that_is_named(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source")
    change(source, "model.layers.1.mlp.down_proj.weight", lambda tensor: tensor.fill(0))
    with pytest.raises(errors.ActivationRangeError) as caught:
        calibrate(quantize(source, tmp_path / "quantized"), tmp_path / "calibrated", SMALL_TEXT)
    assert caught.value.what == "1 activation range cannot be quantized."
    assert caught.value.why in {f"layers.1.mlp_output is constant: {zero} everywhere." for zero in ("0.0", "-0.0")}
    assert not list((tmp_path / "calibrated").iterdir())


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        ("model.layers.1.mlp.gate_up_proj.scales", "layers.1.gate is infinite or no number"),
        ("model.layers.0.self_attn.qkv_proj.scales", "layers.0.qkv is infinite or no number"),
        ("model.layers.1.post_attention_layernorm.weight", "layers.1.post_attention_norm is infinite or no number"),
        ("model.norm.weight", "final_norm is infinite or no number"),
        ("model.embed_tokens.scales", "embedding is infinite or no number"),
    ],
)
def test_the_first_tensor_that_overflows_is_named(tensor: str, named: str, tmp_path: Path) -> None:
    quantized = quantize(make_checkpoint(tmp_path / "source"), tmp_path / "quantized")
    change(quantized, tensor, lambda values: values.reshape(-1).__setitem__(9, np.inf))
    with pytest.raises(errors.ActivationRangeError) as caught:
        calibrate(quantized, tmp_path / "calibrated", SMALL_TEXT)
    assert caught.value.why.startswith(named)


def change(folder: Path, name: str, alter: Any) -> None:
    tensors = dict(load_file(folder / WEIGHTS_FILE))
    alter(tensors[name])
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


@pytest.mark.parametrize("texts", [[], [[]], [[], []]])
def test_no_text_is_refused(texts: list[list[int]], small_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.ActivationRangeError, match="embedding is empty: no calibration text reached it"):
        calibrate(quantize(small_checkpoint, tmp_path / "quantized"), tmp_path / "calibrated", texts)


def test_an_empty_text_among_others_changes_nothing(small_checkpoint: Path, tmp_path: Path) -> None:
    quantized = quantize(small_checkpoint, tmp_path / "quantized")
    calibrate(quantized, tmp_path / "plain", SMALL_TEXT)
    calibrate(quantized, tmp_path / "with-empty", [[], *SMALL_TEXT, []])
    files = [tmp_path / name / ACTIVATIONS_FILE for name in ("plain", "with-empty")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_rotary_tables_are_those_of_the_embedding(nano_checkpoint: Path) -> None:
    """Below and beyond the longrope switch, in any order."""
    decoder = Decoder(nano_checkpoint, open_weights(nano_checkpoint))
    for positions in (300, 256, 1, 100):
        embedding = Phi3RotaryEmbedding(AutoConfig.from_pretrained(nano_checkpoint))
        expected = embedding(torch.zeros(1), torch.arange(positions)[None])
        for ours, theirs in zip(decoder.rotary_tables(positions), expected, strict=True):
            assert ours.shape == (positions, 24) and ours.dtype == np.float32
            np.testing.assert_array_equal(np.concatenate([ours, ours], axis=1), theirs[0].numpy())


def test_rotary_tables_are_those_of_the_builders_graph(nano_checkpoint: Path, tmp_path: Path) -> None:
    model = build_graph(nano_checkpoint, tmp_path, provider="cpu", stop_ids=(1000,), max_length=256)
    move_tables_out(model)
    decoder = Decoder(nano_checkpoint, open_weights(nano_checkpoint))
    for size, positions in (("small", 256), ("large", 2048)):
        cosines, sines = decoder.rotary_tables(positions)
        np.testing.assert_allclose(cosines, table(model, f"cos_cache_{size}"), atol=1e-6)
        np.testing.assert_allclose(sines, table(model, f"sin_cache_{size}"), atol=1e-6)


def table(model: ir.Model, name: str) -> NDArray[np.float32]:
    value = model.graph.initializers[f"model.rotary.{name}"].const_value
    assert value is not None
    found: NDArray[np.float32] = value.numpy()
    return found


def test_the_pass_runs_in_olive(quantized_nano: Path, tmp_path: Path) -> None:
    texts = EVAL_DIR / "calibration.jsonl"
    run_pass(quantized_nano, tmp_path / "out", calibration=str(texts), calibration_sha256=hash_file(texts))
    assert set(load_ranges(tmp_path / "out" / ACTIVATIONS_FILE)) == set(expected_names(6))
    assert not (tmp_path / "out" / "pass-work").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "none are named"),
        ({"calibration": str(EVAL_DIR / "calibration.jsonl"), "calibration_sha256": "0" * 64}, "not those of the plan"),
    ],
)
def test_the_pass_wants_the_texts_of_the_plan(
    changes: dict[str, str], message: str, quantized_nano: Path, tmp_path: Path
) -> None:
    with pytest.raises(errors.CalibrationInvalidError, match=message):
        run_pass(quantized_nano, tmp_path / "out", **changes)


def run_pass(quantized: Path, output: Path, **changes: Any) -> None:
    from olive.model import HfModelHandler
    from olive.passes.olive_pass import create_pass_from_dict

    from phiforge.olive.passes import PhiforgeCalibrate

    step = create_pass_from_dict(PhiforgeCalibrate, {"calibration_tokens": 256, **changes}, disable_search=True)
    result = step.run(HfModelHandler(model_path=str(quantized), task="text-generation"), str(output))
    assert Path(result.model_path) == output
