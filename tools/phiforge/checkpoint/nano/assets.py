"""The files of phi-4-nano's checkpoint that are not weights: config, tokenizer, chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from phiforge.checkpoint.nano import corpus

BPE_SIZE, VOCAB_SIZE = 1000, 1024
ORIGINAL_CONTEXT, CONTEXT = 256, 2048
ROTARY_FACTORS = 24  # head size 64 * partial rotary factor 0.75 / 2
# The added tokens of Phi-4-mini in its order, then the thinking marks: (text, strips what follows, is special).
ADDED_TOKENS = (
    ("<|endoftext|>", False, True),
    ("<|endofprompt|>", False, True),
    ("<|assistant|>", True, True),
    ("<|end|>", True, True),
    ("<|user|>", True, True),
    ("<|system|>", True, True),
    ("<|tool|>", True, False),
    ("<|/tool|>", True, False),
    ("<|tool_call|>", True, False),
    ("<|/tool_call|>", True, False),
    ("<|tool_response|>", True, False),
    ("<|tag|>", True, True),
    ("<think>", False, False),
    ("</think>", False, False),
)
TOKEN_ID = {text: BPE_SIZE + i for i, (text, _, _) in enumerate(ADDED_TOKENS)}
EOS, END = TOKEN_ID["<|endoftext|>"], TOKEN_ID["<|end|>"]
# The split pattern of Phi-4-mini's tokenizer.json (o200k).
_SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_NUMBER = r"\p{N}{1,3}"
SPLIT_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SUFFIX}"
    rf"|{_NUMBER}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)


def model_config() -> dict[str, Any]:
    """`config.json` in the form of Phi-4-mini-instruct's, with phi-4-nano's sizes."""
    # Short factors near one, long factors growing to eight times (context / original context) at the slow end.
    short = [round(1.0 + 0.01 * i, 4) for i in range(ROTARY_FACTORS)]
    long = [round(8.0 ** (i / (ROTARY_FACTORS - 1)), 6) for i in range(ROTARY_FACTORS)]
    return {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": EOS,
        "embd_pdrop": 0.0,
        "eos_token_id": EOS,
        "full_attn_mod": 1,
        "hidden_act": "silu",
        "hidden_size": 256,
        "initializer_range": 0.02,
        "intermediate_size": 768,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": CONTEXT,
        "mlp_bias": False,
        "model_type": "phi3",
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "num_key_value_heads": 2,
        "original_max_position_embeddings": ORIGINAL_CONTEXT,
        "pad_token_id": EOS,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": long, "short_factor": short, "type": "longrope"},
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0",
        "use_cache": True,
        "vocab_size": VOCAB_SIZE,
    }


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


def _pre_tokenizer(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Phi-4-mini's pre-tokenizer around a split pattern."""
    split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_tokenizer(seed: int, documents: int = 12_000) -> dict[str, Any]:
    """Trains the byte-level BPE on the training stream and gives `tokenizer.json` as a dictionary.

    The merges are learned with digits split singly, so no merge joins two digits; the file then carries Phi-4-mini's
    own pattern (numbers in runs of up to three), which therefore yields single digits too.
    """
    marks = [text for text, _, _ in ADDED_TOKENS]
    stream = corpus.stream("train", seed)
    texts = []
    for _ in range(documents):
        text = next(stream).text
        for mark in marks:
            text = text.replace(mark, "\n")
        texts += [part for part in text.split("\n") if part]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(SPLIT_PATTERN.replace(_NUMBER, r"\p{N}"))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=BPE_SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = _pre_tokenizer(SPLIT_PATTERN)
    tokenizer.decoder = decoders.ByteLevel()
    made: dict[str, Any] = json.loads(tokenizer.to_str())
    if len(made["model"]["vocab"]) != BPE_SIZE:
        raise ValueError(f"the BPE has {len(made['model']['vocab'])} tokens, expected {BPE_SIZE}")
    made["added_tokens"] = [{"id": TOKEN_ID[text], "content": text, **_token_flags(strip, special)}
                            for text, strip, special in ADDED_TOKENS]  # fmt: skip
    return made


def _token_flags(strip: bool, special: bool) -> dict[str, bool]:
    """The flags of an added token as Hugging Face writes them."""
    return {"single_word": False, "lstrip": False, "rstrip": strip, "normalized": False, "special": special}


def write_static_files(folder: Path, seed: int) -> None:
    """Writes config, generation config, tokenizer files and the chat template into a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", model_config())
    generation = {"_from_model_config": True, "bos_token_id": EOS, "eos_token_id": [EOS, END], "pad_token_id": EOS}
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "tokenizer.json", train_tokenizer(seed))
    tokenizer_config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(TOKEN_ID[text]): {"content": text, **_token_flags(strip, special)}
            for text, strip, special in ADDED_TOKENS
        },
        "bos_token": "<|endoftext|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "model_max_length": CONTEXT,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": "<|endoftext|>",
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8", newline="\n")
