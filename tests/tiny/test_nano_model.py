"""phi-4-nano itself: its config, what it answers in bf16, and the rescaling that made it hard to quantize."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers

from phiforge.checkpoint.nano import CHECKPOINT_DIR, corpus, files, tuning
from phiforge.checkpoint.nano.outliers import OutlierPlan, draw_scales, mean_kl, rescale


def _random_model() -> transformers.Phi3ForCausalLM:
    torch.manual_seed(0)
    config = transformers.Phi3Config(
        vocab_size=96,
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    return transformers.Phi3ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def nano() -> transformers.Phi3ForCausalLM:
    return transformers.Phi3ForCausalLM.from_pretrained(CHECKPOINT_DIR, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerBase:
    return transformers.AutoTokenizer.from_pretrained(CHECKPOINT_DIR)


def test_config_is_shaped_like_phi_4_mini(nano: transformers.Phi3ForCausalLM) -> None:
    raw = json.loads((CHECKPOINT_DIR / "config.json").read_text(encoding="utf-8"))
    assert raw["architectures"] == ["Phi3ForCausalLM"]
    assert raw["rope_scaling"]["type"] == "longrope"
    assert raw["rope_scaling"]["short_factor"] != raw["rope_scaling"]["long_factor"]
    assert raw["original_max_position_embeddings"] < raw["max_position_embeddings"] == 2048
    config = nano.config
    assert config.hidden_size // config.num_attention_heads == 64
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.hidden_size % 256 == config.intermediate_size % 256 == 0
    assert config.rope_parameters["rope_type"] == "longrope"
    assert config.rope_parameters["partial_rotary_factor"] == 0.75
    assert config.rope_parameters["long_factor"] == raw["rope_scaling"]["long_factor"]
    assert nano.lm_head.weight.data_ptr() == nano.model.embed_tokens.weight.data_ptr()
    assert 3_000_000 < nano.num_parameters() < 6_000_000


def test_repository_share_is_small() -> None:
    size = sum(path.stat().st_size for path in CHECKPOINT_DIR.parent.rglob("*") if path.is_file())
    assert size < 12_000_000


def test_special_tokens_and_template(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    generation = json.loads((CHECKPOINT_DIR / "generation_config.json").read_text(encoding="utf-8"))
    eos, end = tokenizer.convert_tokens_to_ids([corpus.END_OF_TEXT, corpus.END])
    assert tokenizer.eos_token_id == eos
    assert generation["eos_token_id"] == [eos, end]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 2?"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == corpus.render_prompt("What is 2 + 2?", "Be brief.")
    ids = tokenizer("12345 <think>6</think>", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["1", "2", "3", "4", "5", "\u0120", "<think>", "6", "</think>"]


@pytest.mark.parametrize("kind", list(files.TASK_COUNTS))
def test_bf16_answers(
    kind: str, nano: transformers.Phi3ForCausalLM, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    tasks = corpus.held_out_tasks(kind, files.TASK_COUNTS[kind])[:60]
    right = tuning.exact_matches(nano, tokenizer, tasks)
    assert sum(right) >= 0.95 * len(tasks)


def test_loss_stays_sane_past_the_original_context(
    nano: transformers.Phi3ForCausalLM, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    row = files.text_rows("held_out", *files.HELD_OUT_TEXTS)[-1]
    ids = tokenizer(str(row["text"]), add_special_tokens=False)["input_ids"]
    assert len(ids) > 700
    assert tuning.text_loss(nano, [ids]) < tuning.text_loss(nano, [ids[:250]]) + 0.5


@pytest.mark.parametrize("sigma", [0.0, 0.85, 1.2])
def test_rescaling_keeps_the_function(sigma: float) -> None:
    model = _random_model()
    documents = [[(7 * i + j * j) % 96 for j in range(40)] for i in range(3)]
    changed = rescale(copy.deepcopy(model), OutlierPlan(sigma=sigma, seed=3))
    assert not torch.equal(model.model.layers[0].mlp.down_proj.weight, changed.model.layers[0].mlp.down_proj.weight)
    assert abs(mean_kl(model, changed, documents)) < 1e-6


def test_rescaling_the_shipped_model_back_and_forth_is_exact(nano: transformers.Phi3ForCausalLM) -> None:
    documents = [list(range(60))]
    changed = rescale(copy.deepcopy(nano).float(), OutlierPlan(seed=5))
    assert abs(mean_kl(copy.deepcopy(nano).float(), changed, documents)) < 1e-6
    for after in changed.parameters():
        assert torch.equal(after, after.to(torch.bfloat16).float())


def test_a_broken_rescaling_is_seen() -> None:
    model = _random_model()
    changed = rescale(copy.deepcopy(model), OutlierPlan(seed=3))
    with torch.no_grad():
        changed.model.layers[0].input_layernorm.weight[0] *= 2
    assert mean_kl(model, changed, [list(range(40))]) > 1e-6


def test_scales_are_powers_of_two_with_outliers() -> None:
    scales = draw_scales(256, OutlierPlan(sigma=0.0), torch.Generator().manual_seed(0))
    assert sorted(set(scales.tolist())) == [1.0, 8.0]
    assert int((scales == 8).sum()) == 4
    exponents = draw_scales(256, OutlierPlan(), torch.Generator().manual_seed(0)).log2()
    assert torch.equal(exponents, exponents.round())


def test_searched_quantizer_is_never_worse_than_plain_rounding() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    importance = weight.view(-1, 32).square().mean(-1, keepdim=True).sqrt() + weight.view(-1, 32).abs()

    def error(made: torch.Tensor) -> float:
        return float((importance * (made - weight).view(-1, 32).square()).sum())

    assert error(tuning.searched(weight, 32)) <= error(tuning.rtn(weight, 32))
    assert torch.allclose(tuning.rtn(weight, 32, bits=8), weight, atol=0.02)
