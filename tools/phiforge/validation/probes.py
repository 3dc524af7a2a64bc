"""Yes-or-no checks of what statistics hide: tokenizer, chat template, stopping, the longrope switch, placement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from phiforge import errors
from phiforge.evidence import Probe
from phiforge.validation.drift import ReferenceText, kl_coarse, log_softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from phiforge.runtime.trace import LastRows, Trace
    from phiforge.validation.reference import Conversation

# A mean of a few dozen positions scatters around the mean of thousands; a missed switch is ten times over it.
PREFILL_FACTOR = 3.0
# Two ways of computing one thing may differ by their rounding, but by no more than quantization costs.
DECODE_FACTOR = 1.0
# Below this (nats) a difference cannot be told from rounding, however small the drift is.
FLOOR_NATS = 0.005
# Positions at the end of a prefill that are compared.
TAIL_POSITIONS = 64
# Prompt lengths around the switch, relative to the original context: below, at and above it.
SWITCH_OFFSETS = (-1, 0, 1)
# Where the probe of decoding starts before the switch, and how many tokens it makes.
DECODE_BEFORE, DECODE_STEPS = 8, 24
# onnxruntime-genai 0.18 recomputes its KV cache when a sequence of a phi3 model reaches this length, at no other.
RUNTIME_RECOMPUTES_AT = 4097
# Of the questions: how many more than the reference's may run on, and how many more may loop. A broken stop id makes
# nearly all run on; a few can go either way after any change.
RUN_ON_FRACTION, LOOP_FRACTION, ODD_QUESTIONS = 0.02, 0.01, 3
LOOP_REPEATS, LOOP_LONGEST = 4, 32
# Of the largest logit: kernels that take several rows at once may add up in another order than those that take one.
# In float16 such sums differ by its last digits, 2^-11 each: 3.1e-4 was seen on the CPU.
ROUNDING_FRACTION, FLOAT16_ROUNDING_FRACTION = 1e-5, 2e-3


@dataclass(frozen=True)
class Ending:
    """How an answer ended: by a stop id, and if not, whether it repeated itself up to its limit."""

    stopped: bool
    loops: bool


def ending(tokens: Sequence[int], *, stopped: bool) -> Ending:
    """Return how an answer of these new tokens ended."""
    return Ending(stopped=stopped, loops=not stopped and is_loop(tokens))


def probe_tokenizer(encode: Callable[[str], list[int]], texts: Sequence[str], expected: Sequence[list[int]]) -> Probe:
    """Check that the shipped tokenizer gives the ids of the checkpoint's own on every text."""
    wrong = [text for text, ids in zip(texts, expected, strict=True) if encode(text) != ids]
    detail = f"{len(texts) - len(wrong)} of {len(texts)} texts have the checkpoint's ids"
    if wrong:
        detail += f"; the first that differs: {_short(wrong[0])}"
    return Probe(name="tokenizer", passed=not wrong, detail=detail)


def probe_chat_template(
    render: Callable[[Conversation], str],
    encode: Callable[[str], list[int]],
    conversations: Sequence[Conversation],
    expected: Sequence[tuple[str, list[int]]],
) -> Probe:
    """Check that the shipped chat template gives the checkpoint's own text, and that text the same ids."""
    faults = []
    for conversation, (text, ids) in zip(conversations, expected, strict=True):
        rendered = render(conversation)
        if rendered != text:
            faults.append(f"{_short(rendered)} instead of {_short(text)}")
        elif encode(rendered) != ids:
            faults.append(f"other ids for {_short(text)}")
    good = len(conversations) - len(faults)
    detail = f"{good} of {len(conversations)} conversations are rendered as by the checkpoint"
    return Probe(name="chat-template", passed=not faults, detail="; ".join([detail, *faults[:1]]))


def probe_stop_ids(
    stop_ids: Collection[int], expected: Collection[int], stops_at: Callable[[int], bool], vocab_size: int
) -> Probe:
    """Check that every stop id of the checkpoint ends a generation of the variant, and another token does not.

    Each choice is forced, so that the runtime and not only its configuration is asked.
    """
    other = next(token for token in range(vocab_size) if token not in {*stop_ids, *expected})
    absent = sorted(set(expected) - set(stop_ids))
    deaf = [token for token in sorted(expected) if not stops_at(token)]
    faults = [f"not in genai_config.json: {absent}"] if absent else []
    faults += [f"do not end a generation: {deaf}"] if deaf else []
    faults += [f"the token {other} ends a generation too"] if stops_at(other) else []
    detail = "; ".join(faults) or f"each of {sorted(expected)} ends a generation, {other} does not"
    return Probe(name="stop-ids", passed=not faults, detail=detail)


def probe_stopping(reference: Sequence[Ending], variant: Sequence[Ending]) -> Probe:
    """Check that answers end by themselves, and none repeats itself to the end, as often as the reference's do."""
    count = len(variant)
    run_on = [sum(not end.stopped for end in side) for side in (reference, variant)]
    loops = [sum(end.loops for end in side) for side in (reference, variant)]
    allowed = [fraction * count + ODD_QUESTIONS for fraction in (RUN_ON_FRACTION, LOOP_FRACTION)]
    passed = run_on[1] - run_on[0] <= allowed[0] and loops[1] - loops[0] <= allowed[1]
    detail = (
        f"of {count} answers {count - run_on[1]} end by a stop id (reference {count - run_on[0]}), "
        f"{loops[1]} repeat themselves to the end (reference {loops[0]})"
    )
    return Probe(name="stopping", passed=passed, detail=detail)


def is_loop(tokens: Sequence[int]) -> bool:
    """Return whether the end of a generation is one n-gram of up to 32 tokens, four times or more."""
    for size in range(1, LOOP_LONGEST + 1):
        span = size * LOOP_REPEATS
        if len(tokens) >= span and all(tokens[-i] == tokens[-i - size] for i in range(1, span - size + 1)):
            return True
    return False


def probe_placement(check: Callable[[], int]) -> Probe:
    """Check that every node runs on the provider that the variant promises.

    Args:
        check: Returns the number of nodes, all of them in place, or raises FallbackError.
    """
    try:
        nodes = check()
    except errors.FallbackError as error:
        return Probe(name="placement", passed=False, detail=str(error))
    return Probe(name="placement", passed=True, detail=f"all {nodes} nodes run on the promised provider")


def probe_switch_prefill(
    references: Sequence[ReferenceText],
    logits_of: Callable[[Sequence[int]], NDArray[np.float32]],
    typical_kl_nats: float,
) -> Probe:
    """Check that prompts just below, at and above the longrope switch are answered as by the reference.

    A prompt longer than the original context uses the long factors for all its positions, so a wrong choice shows at
    every position; the mean KL of the last 64 is held against the drift's mean.

    Args:
        references: The reference's distributions over the prompts.
        logits_of: The variant's logits, in one prefill.
        typical_kl_nats: The drift's mean KL.
    """
    limit = max(FLOOR_NATS, PREFILL_FACTOR * typical_kl_nats)
    means = {}
    for text in references:
        rows = slice(-TAIL_POSITIONS, None)
        log_q = log_softmax(logits_of(text.tokens.tolist())[rows])
        kl = kl_coarse(text.top_ids[rows], text.top_log_probabilities[rows], text.tail_log_mass[rows], log_q)
        means[len(text.tokens)] = float(kl.mean())
    listed = ", ".join(f"{mean:.4f} nats at {length}" for length, mean in means.items())
    passed = all(mean <= limit for mean in means.values())
    return Probe(name="longrope-prefill", passed=passed, detail=f"mean KL {listed} tokens; limit {limit:.4f}")


def probe_switch_decode(
    trace: Trace,
    logits_of: Callable[[Sequence[int]], NDArray[np.float32]],
    *,
    switch: int,
    stop_ids: Collection[int],
    typical_kl_nats: float,
) -> Probe:
    """Check that a generation across the longrope switch goes on as if all its tokens had been the prompt.

    That is what transformers does: it drops its KV cache at the switch and computes it again with the long factors. So
    each generated position is held against the variant's own prefill of the same tokens, which `longrope-prefill` in
    turn holds against the reference. onnxruntime-genai 0.18 recomputes its cache at 4097 tokens and nowhere else; for a
    checkpoint that switches elsewhere this probe reports what that costs, and does not block, for no build can help it.

    Args:
        trace: A greedy generation from below to above the switch.
        logits_of: The variant's logits, in one prefill.
        switch: The original context: sequences longer than this use the long factors.
        stop_ids: Left out on both sides, since the trace lacks their logits.
        typical_kl_nats: The drift's mean KL.
    """
    limit = max(FLOOR_NATS, DECODE_FACTOR * typical_kl_nats)
    lengths = range(trace.prompt_tokens, len(trace.tokens))
    # Only the last rows are kept, as copies: at 200,064 tokens of vocabulary the whole is 3 GB.
    first = trace.prompt_tokens - 1
    short = logits_of(trace.tokens[:switch])[first:].copy()
    long = logits_of(trace.tokens[:-1])[first:].copy()
    whole = np.stack([(short if length <= switch else long)[length - 1 - first] for length in lengths])
    kl = _kl_without(whole, trace.logits, stop_ids)
    after = np.array([length > switch for length in lengths])
    before_mean, after_mean = float(kl[~after].mean()), float(kl[after].mean())
    served = switch + 1 == RUNTIME_RECOMPUTES_AT
    detail = (
        f"mean KL between generation and prefill {before_mean:.4f} nats up to the switch at {switch} tokens, "
        f"{after_mean:.4f} nats after it; limit {limit:.4f}"
    )
    if not served:
        detail += f"; onnxruntime-genai recomputes its KV cache at {RUNTIME_RECOMPUTES_AT} tokens only"
    return Probe(name="longrope-decode", passed=max(before_mean, after_mean) <= limit, blocking=served, detail=detail)


def probe_pruned_head(
    lengths: Sequence[int],
    shipped: Sequence[LastRows],
    twin: Sequence[LastRows],
    *,
    rounding: float = ROUNDING_FRACTION,
) -> Probe:
    """Check that a variant which gives the last position's logits says what its twin says at that position.

    A decoded token is computed alone by both, so its logits must be the same bits. In a prefill the twin's head
    computes all rows together; where the kernel then adds up in another order, the difference must be its rounding.

    Args:
        lengths: Tokens of each prompt.
        shipped: The variant's rows after each prompt.
        twin: The twin's rows.
        rounding: What sums in another order may differ by, as a fraction of the largest logit.
    """
    pairs = list(zip(lengths, shipped, twin, strict=True))
    steps = [length for length, one, other in pairs if not np.array_equal(one.step, other.step)]
    same = [np.array_equal(one.prefill, other.prefill) for _, one, other in pairs]
    gaps = [float(np.abs(one.prefill - other.prefill).max() / np.abs(other.prefill).max()) for _, one, other in pairs]
    far = [length for length, gap in zip(lengths, gaps, strict=True) if not gap <= rounding]
    detail = (
        f"after prompts of {', '.join(map(str, lengths))} tokens, {len(pairs) - len(steps)} of {len(pairs)} decoded "
        f"tokens and {sum(same)} of {len(pairs)} last tokens of the prompt have the twin's logits to the bit"
    )
    if not all(same):
        detail += f"; the others differ by up to {max(gaps):.1e} of the largest logit, limit {rounding:.0e}"
    return Probe(name="pruned-head", passed=bool(pairs) and not steps and not far, detail=detail)


def no_switch(why: str) -> tuple[Probe, Probe]:
    """Return the two longrope probes where there is nothing to cross."""
    return (
        Probe(name="longrope-prefill", passed=True, detail=why),
        Probe(name="longrope-decode", passed=True, detail=why),
    )


def _kl_without(
    first: NDArray[np.float32], second: NDArray[np.float32], left_out: Collection[int]
) -> NDArray[np.float64]:
    """Return KL(first || second) of logits [n, vocab] over all tokens but some: float64 [n]."""
    columns = np.setdiff1d(np.arange(first.shape[1]), np.array(sorted(left_out)))
    log_p, log_q = log_softmax(first[:, columns]), log_softmax(second[:, columns])
    total: NDArray[np.float64] = np.maximum((np.exp(log_p) * (log_p - log_q)).sum(axis=1), 0.0)
    return total


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
