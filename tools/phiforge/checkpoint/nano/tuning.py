"""Scores phi-4-nano and measures what simulated weight quantization costs it.

Run as `python -m phiforge.checkpoint.nano.tuning BASE_DIR --sigma 0.6 0.7 --seed 0 1`: BASE_DIR holds the trained
weights before the rescaling; every (sigma, seed) prints one table. Quantization is simulated in fp32 on the qkv, o,
gate_up and down projections; embedding and head stay as they are.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Phi3ForCausalLM

from phiforge.checkpoint.nano import corpus, files
from phiforge.checkpoint.nano.assets import ORIGINAL_CONTEXT
from phiforge.checkpoint.nano.outliers import Model, OutlierPlan, mean_kl, rescale

log = logging.getLogger("phiforge.nano")

Quantizer = Callable[[torch.Tensor], torch.Tensor]


def _left_padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of prompts padded on the left to the longest."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.no_grad()
def exact_matches(model: Model, tokenizer: Any, tasks: list[corpus.Document], batch: int = 200) -> list[bool]:
    """Whether the model's greedy answer (what follows `</think>`) equals each task's answer."""
    model.eval()
    eos, end = tokenizer.convert_tokens_to_ids([corpus.END_OF_TEXT, corpus.END])
    prompts = [tokenizer(corpus.render_prompt(t.question), add_special_tokens=False)["input_ids"] for t in tasks]
    order = sorted(range(len(tasks)), key=lambda index: len(prompts[index]))
    right = [False] * len(tasks)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids, mask = _left_padded([prompts[index] for index in chosen], eos)
        width = ids.shape[1]
        limits = {"max_new_tokens": ORIGINAL_CONTEXT - width, "do_sample": False}
        output = model.generate(ids, attention_mask=mask, eos_token_id=[eos, end], pad_token_id=eos, **limits)
        for index, row in zip(chosen, output, strict=True):
            text = tokenizer.decode(row[width:]).split(corpus.END)[0].split(corpus.END_OF_TEXT)[0]
            right[index] = text.split(corpus.END_THINK)[-1].strip() == tasks[index].answer
    return right


@torch.no_grad()
def text_loss(model: Model, documents: list[list[int]]) -> float:
    """Mean negative log-likelihood per predicted token over documents of token ids, in nats."""
    total, count = 0.0, 0
    for ids in documents:
        tokens = torch.tensor([ids])
        logits = model(tokens).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
        count += len(ids) - 1
    return total / count


def rtn(weight: torch.Tensor, block: int, bits: int = 4, symmetric: bool = False) -> torch.Tensor:
    """Rounds to nearest by blocks of `block` input columns (0: whole rows) and back; fp32 of the same shape."""
    rows, columns = weight.shape
    blocks = weight.view(rows, -1, block or columns)
    top = 2**bits - 1
    if symmetric:
        scale = (blocks.abs().amax(-1, keepdim=True) / 2 ** (bits - 1)).clamp(min=1e-12)
        made: torch.Tensor = (blocks / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
        return made.view(rows, columns)
    low, high = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
    return _affine(blocks, (high - low).clamp(min=1e-12) / top, low, top).view(rows, columns)


def _affine(blocks: torch.Tensor, scale: torch.Tensor, low: torch.Tensor, top: int) -> torch.Tensor:
    """Blocks quantized to 0..top with a rounded zero point, and back."""
    zero = (-low / scale).round().clamp(0, top)
    made: torch.Tensor = (((blocks / scale).round() + zero).clamp(0, top) - zero) * scale
    return made


def searched(weight: torch.Tensor, block: int, bits: int = 4, candidates: int = 20) -> torch.Tensor:
    """Like `rtn`, with each block's scale searched: weighted squared error over shrunk ranges, each refitted.

    The weight of an element is its block's root mean square plus its magnitude, as in k-quants.
    """
    rows, columns = weight.shape
    x = weight.view(rows, -1, block)
    top = 2**bits - 1
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    span = (high - low).clamp(min=1e-12)
    importance = x.square().mean(-1, keepdim=True).sqrt() + x.abs()
    best = _affine(x, span / top, low, top)
    error = (importance * (best - x).square()).sum(-1, keepdim=True)
    for i in range(candidates):
        scale = span / (top - 1.0 + 0.1 * i)
        level = ((x - low) / scale).round().clamp(0, top)
        scale, offset = _refit(x, level, importance)
        tried = _affine(x, scale.clamp(min=1e-12), offset.clamp(max=0), top)
        new_error = (importance * (tried - x).square()).sum(-1, keepdim=True)
        better = new_error < error
        best, error = torch.where(better, tried, best), torch.where(better, new_error, error)
    return best.reshape(rows, columns)


def _refit(x: torch.Tensor, level: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted least squares of x on level: scale and offset per block."""
    w, wl, wl2 = (value.sum(-1, keepdim=True) for value in (weight, weight * level, weight * level.square()))
    wx, wxl = (value.sum(-1, keepdim=True) for value in (weight * x, weight * x * level))
    determinant = (w * wl2 - wl.square()).clamp(min=1e-30)
    return (w * wxl - wx * wl) / determinant, (wl2 * wx - wl * wxl) / determinant


def uniform(quantizer: Quantizer) -> Callable[[str], Quantizer]:
    """Chooses one quantizer for every matrix."""
    return lambda name: quantizer


def mixed(low: Quantizer, high: Quantizer, layers: int) -> Callable[[str], Quantizer]:
    """Chooses `high` for qkv and down of the first, the last and every third layer, `low` elsewhere."""

    def choose(name: str) -> Quantizer:
        index = int(name.split("layers.")[1].split(".")[0])
        sensitive = index in (0, layers - 1) or index % 3 == 2
        return high if sensitive and ("qkv_proj" in name or "down_proj" in name) else low

    return choose


@torch.no_grad()
def quantized(model: Model, choose: Callable[[str], Quantizer]) -> Model:
    """A copy of a model whose layers' matrices went through the quantizers chosen by name."""
    made = copy.deepcopy(model)
    for name, module in made.named_modules():
        if isinstance(module, torch.nn.Linear) and "layers." in name:
            module.weight.copy_(choose(name)(module.weight))
    return made


def settings(layers: int) -> dict[str, Callable[[str], Quantizer]]:
    """The quantization settings a table compares."""
    table: dict[str, Callable[[str], Quantizer]] = {}
    for block in (16, 32, 64, 128, 256, 0):
        table[f"RTN int4 block {block}" if block else "RTN int4 per channel"] = uniform(partial(rtn, block=block))
    table["RTN int4 block 32 symmetric"] = uniform(partial(rtn, block=32, symmetric=True))
    eight = partial(rtn, block=32, bits=8)
    table["RTN int8 block 32"] = uniform(eight)
    table["searched int4 block 32"] = uniform(partial(searched, block=32))
    table["searched int4 block 32, mixed with int8"] = mixed(partial(searched, block=32), eight, layers)
    return table


def load_tasks() -> dict[str, list[corpus.Document]]:
    """All held-out tasks by kind."""
    return {kind: corpus.held_out_tasks(kind, count) for kind, count in files.TASK_COUNTS.items()}


def score(model: Model, tokenizer: Any, tasks: dict[str, list[corpus.Document]]) -> dict[str, float]:
    """Exact match by kind and, as the plain mean over all tasks, "all"."""
    right = {kind: exact_matches(model, tokenizer, items) for kind, items in tasks.items()}
    result = {kind: sum(values) / len(values) for kind, values in right.items()}
    return {**result, "all": sum(map(sum, right.values())) / sum(map(len, right.values()))}


def text_ids(tokenizer: Any) -> list[list[int]]:
    """The held-out texts as token ids."""
    rows = files.text_rows("held_out", *files.HELD_OUT_TEXTS)
    return [tokenizer(str(row["text"]), add_special_tokens=False)["input_ids"] for row in rows]


def tabulate(model: Model, tokenizer: Any, only: str = "") -> dict[str, dict[str, float]]:
    """Exact match, perplexity and KL (nats, from the model itself) under every setting whose name has `only` in it."""
    tasks, documents = load_tasks(), text_ids(tokenizer)
    table = {"fp32": {**score(model, tokenizer, tasks), "perplexity": math.exp(text_loss(model, documents))}}
    log.info("%s", {"setting": "fp32", **table["fp32"]})
    for name, choose in settings(model.config.num_hidden_layers).items():
        if only not in name:
            continue
        made = quantized(model, choose)
        row = score(made, tokenizer, tasks)
        row |= {"perplexity": math.exp(text_loss(made, documents)), "kl": mean_kl(model, made, documents)}
        table[name] = row
        log.info("%s", {"setting": name, **{key: round(value, 4) for key, value in row.items()}})
    return table


def main() -> None:
    """Prints the table of every sigma and seed asked for."""
    parser = argparse.ArgumentParser(description="measures what quantization costs the rescaled phi-4-nano")
    parser.add_argument("base", type=Path, help="checkpoint folder with the weights before the rescaling")
    parser.add_argument("--sigma", type=float, nargs="+", default=[OutlierPlan.sigma])
    parser.add_argument("--seed", type=int, nargs="+", default=[OutlierPlan.seed])
    parser.add_argument("--only", default="", help="only the settings whose name contains this")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    for sigma in arguments.sigma:
        for seed in arguments.seed:
            model: Model = Phi3ForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
            plan = OutlierPlan(sigma=sigma, seed=seed)
            log.info("%s", plan)
            tabulate(rescale(model.eval(), plan), tokenizer, arguments.only)


if __name__ == "__main__":
    main()
