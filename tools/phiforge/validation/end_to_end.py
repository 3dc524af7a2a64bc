"""The runtime that ships, asked on the emulator: prompts around the window, a second turn, the end of the context.

onnxruntime-genai 0.18 pads a prompt to whole windows and works through it window by window; what it gives is held
against the same graphs run stage by stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from phiforge import errors
from phiforge.evidence import Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from phiforge.runtime.stages import StagedDecoder
    from phiforge.runtime.variant import Variant

    Floats = NDArray[np.float32]

# Around one and two windows of 64, and a longer one; those of other windows are added.
LENGTHS = (1, 2, 63, 64, 65, 127, 128, 129, 200)
TURN_TOKENS, ANSWER_TOKENS = 40, 8
# Rounding alone; both run the same graphs.
RELATIVE_ERROR = 1e-4


def probe_end_to_end(
    runtime: Variant, stages: StagedDecoder, line: Sequence[int], progress: Callable[[str, int, int], None]
) -> tuple[Probe, ...]:
    """Return the probes of an opened variant in stages, the same folder opened stage by stage, and tokens to ask."""
    window = stages.window
    around = {count * window + offset for count in (1, 2) for offset in (-1, 0, 1)}
    lengths = sorted(n for n in {*LENGTHS, *around} if n <= min(stages.context_length, len(line)))
    faults = []
    for done, length in enumerate(lengths, start=1):
        error = _prompt_error(runtime, stages, line[:length])
        if error > RELATIVE_ERROR:
            faults.append(f"{length} tokens: relative error {error:.1e}")
        progress("prompts through the runtime", done, len(lengths))
    told = ", ".join(map(str, lengths))
    prompts = Probe(
        name="prompt-lengths",
        passed=not faults,
        detail="; ".join(faults) or f"prompts of {told} tokens give the logits of the graphs run one by one",
    )
    return prompts, _second_turn(runtime, stages, line), _context_end(runtime, line)


def _prompt_error(runtime: Variant, stages: StagedDecoder, prompt: Sequence[int]) -> float:
    from phiforge.runtime.logits import next_logits
    from phiforge.runtime.stages import staged_logits

    ours, theirs = next_logits(runtime, prompt), staged_logits(stages, prompt)[-1]
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _second_turn(runtime: Variant, stages: StagedDecoder, line: Sequence[int]) -> Probe:
    """A turn after an answer, in a generator of its own: this runtime cannot go back, nor append a prompt rightly."""
    from phiforge.runtime.generate import generate
    from phiforge.runtime.stages import staged_generate

    first = list(line[:TURN_TOKENS])
    answer = generate(runtime, [first], max_new_tokens=ANSWER_TOKENS)[0].tokens
    second = [*first, *answer, *line[TURN_TOKENS : 2 * TURN_TOKENS]]
    ours = generate(runtime, [second], max_new_tokens=ANSWER_TOKENS)[0].tokens
    theirs = staged_generate(stages, second, ANSWER_TOKENS).tokens
    told = f"a second turn of {len(second)} tokens with the first one's in it"
    detail = f"{told} is answered as by the graphs" if ours == theirs else f"{told}: {ours} instead of {theirs}"
    return Probe(name="second-turn", passed=ours == theirs, detail=detail)


def _context_end(runtime: Variant, line: Sequence[int]) -> Probe:
    """A generation up to the last token that the graphs hold, and a prompt that is too long for them."""
    from phiforge.runtime.logits import trace_greedy

    context, window = runtime.context_length, runtime.window or 1
    prompt = list(line[: context - window])
    faults = []
    taken = runtime.prompt_length(len(prompt))
    trace = trace_greedy(runtime, prompt, context - taken)
    if not np.isfinite(trace.logits).all() or len(trace.logits) != context - taken:
        faults.append(f"{len(trace.logits)} of {context - taken} tokens up to the end are sound")
    try:
        runtime.prompt_length(context + 1)
        faults.append(f"a prompt of {context + 1} tokens is not refused")
    except errors.ContextTooLongError:
        pass
    detail = f"{context} tokens are reached after a prompt of {len(prompt)}, and a longer prompt is refused"
    return Probe(name="context-end", passed=not faults, detail="; ".join(faults) or detail)
