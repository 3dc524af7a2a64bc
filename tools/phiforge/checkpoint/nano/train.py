"""Trains phi-4-nano from scratch and writes the checkpoint with its held-out tasks and texts.

Run as `python -m phiforge.checkpoint.nano.train OUT_DIR`: CPU only, two threads, seeded; under an hour on two cores.
`--from-base DIR` skips the training and redoes only the rescaling and the evaluation from trained weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import math
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer, Phi3Config, Phi3ForCausalLM

from phiforge.checkpoint.nano import CHECKPOINT_DIR, EVAL_DIR, corpus, tuning
from phiforge.checkpoint.nano.assets import EOS, ORIGINAL_CONTEXT, write_json, write_static_files
from phiforge.checkpoint.nano.files import TASK_COUNTS, write_checksums, write_eval
from phiforge.checkpoint.nano.outliers import Model, OutlierPlan, mean_kl, rescale

log = logging.getLogger("phiforge.nano")

LONG_TRAINED = 1024  # tokens of a long training row


@dataclass(frozen=True)
class Plan:
    """The training plan: optimiser steps, tokens per step, learning rate, share of long batches, seed."""

    steps: int = 2800
    tokens: int = 4096
    learning_rate: float = 4e-3
    warmup: int = 60
    long_every: int = 8
    seed: int = 4
    eval_every: int = 400


class Packer:
    """Packs whole documents into rows of fixed length, so that every row starts where a document starts."""

    def __init__(self, tokenizer: Tokenizer, documents: Iterator[corpus.Document], chunk: int = 256) -> None:
        """Takes the stream to pack; `chunk` documents are tokenized at a time."""
        self._tokenizer, self._documents, self._chunk = tokenizer, documents, chunk
        self._pending: list[list[int]] = []

    def _next(self) -> list[int]:
        """The ids of the next document with its end-of-text token."""
        if not self._pending:
            texts = [next(self._documents).text for _ in range(self._chunk)]
            encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            self._pending = [[*item.ids, EOS] for item in reversed(encoded)]
        return self._pending.pop()

    def rows(self, count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`count` rows of `length` ids and their labels (padding is -100); a document that does not fit is cut."""
        ids = torch.full((count, length), EOS)
        labels = torch.full((count, length), -100)
        for row in range(count):
            filled = 0
            while filled < length:
                document = self._next()[: length - filled]
                end = filled + len(document)
                ids[row, filled:end] = torch.tensor(document)
                labels[row, filled:end] = ids[row, filled:end]
                filled = end
        return ids, labels


def learning_rate(plan: Plan, step: int) -> float:
    """Linear warm-up, then a cosine down to 2% of the peak."""
    warm = min(1.0, (step + 1) / plan.warmup)
    return plan.learning_rate * warm * max(0.02, 0.5 * (1 + math.cos(math.pi * step / plan.steps)))


def _optimizers(model: Model, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() == 1 or "embed" in name]
    rate = plan.learning_rate
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]


def train_model(folder: Path, plan: Plan) -> Model:
    """Trains the model described by a folder's config on the training stream; gives it in bf16.

    One batch in `plan.long_every` has rows of `LONG_TRAINED` tokens, which train the long rotary factors.
    """
    random.seed(plan.seed)
    torch.manual_seed(plan.seed)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model: Model = Phi3ForCausalLM(Phi3Config.from_pretrained(folder))
    model.to(torch.float32)
    short = Packer(tokenizer, corpus.stream("train", plan.seed))
    long = Packer(tokenizer, _long_mix(plan.seed), chunk=32)
    optimizers = _optimizers(model, plan)
    started = time.monotonic()
    for step in range(plan.steps):
        is_long = step % plan.long_every == plan.long_every - 1
        length = LONG_TRAINED if is_long else ORIGINAL_CONTEXT
        ids, labels = (long if is_long else short).rows(plan.tokens // length, length)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate(plan, step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            seconds = time.monotonic() - started
            rate = (step + 1) * plan.tokens / seconds
            log.info("step %d%s loss %.4f %.0fs %.0f tok/s", step + 1, " long" * is_long, loss.item(), seconds, rate)
        if (step + 1) % plan.eval_every == 0:
            _log_progress(model, folder)
    return model.to(torch.bfloat16)


def _long_mix(seed: int) -> Iterator[corpus.Document]:
    """Long prose and short documents of every kind by turns, for the long rows."""
    far, near = corpus.long_stream("train", seed), corpus.stream("train", seed + 1)
    while True:
        yield next(far)
        for _ in range(10):
            yield next(near)


def _log_progress(model: Model, folder: Path) -> None:
    """Logs exact match on a few held-out tasks of each kind."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for kind in TASK_COUNTS:
        tasks = corpus.held_out_tasks(kind, 40)
        log.info("  %s %.3f", kind, sum(tuning.exact_matches(model, tokenizer, tasks)) / len(tasks))
    model.train()


def save_weights(model: Model, folder: Path) -> None:
    """Writes `model.safetensors` without the tied head."""
    weights = {name: value.contiguous() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path, dtype: torch.dtype) -> Model:
    """Loads a checkpoint folder for evaluation."""
    model: Model = Phi3ForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.eval()


def finish(base: Path, out: Path, plan: OutlierPlan) -> dict[str, Any]:
    """Rescales the trained weights into `out/phi-4-nano`, writes `out/eval`, and measures.

    Returns:
        The figures for the card: exact match by kind and perplexity in bf16, KL of the fp32 function before and after
        the rescaling (nats), and the simulated quantization table.
    """
    folder = out / CHECKPOINT_DIR.name
    folder.mkdir(parents=True, exist_ok=True)
    for path in base.iterdir():
        shutil.copyfile(path, folder / path.name)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = rescale(load(base, torch.bfloat16), plan)
    save_weights(model, folder)
    before = load(base, torch.float32)
    after = load(folder, torch.float32)
    documents = tuning.text_ids(tokenizer)
    write_eval(out / EVAL_DIR.name)
    write_checksums(out / EVAL_DIR.name, folder)
    return {
        "plan": dataclasses.asdict(plan),
        "kl_of_rescaling": mean_kl(before, after, documents),
        "bf16": {
            **tuning.score(model, tokenizer, tuning.load_tasks()),
            "perplexity": math.exp(tuning.text_loss(model, documents)),
        },
        "quantized": tuning.tabulate(after, tokenizer),
    }


def main() -> None:
    """Trains (or takes trained weights), rescales, measures, and writes everything below OUT_DIR."""
    parser = argparse.ArgumentParser(description="trains phi-4-nano and writes checkpoint and held-out files")
    parser.add_argument("out", type=Path)
    parser.add_argument("--from-base", type=Path, help="folder with trained weights, instead of training")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(2)
    base, plan = arguments.from_base or arguments.out / "base", Plan()
    if not arguments.from_base:
        write_static_files(base, plan.seed)
        save_weights(train_model(base, plan), base)
    report = finish(base, arguments.out, OutlierPlan())
    write_json(arguments.out / "report.json", report)
    log.info("%s", json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
