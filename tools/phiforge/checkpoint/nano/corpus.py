"""The text phi-4-nano is trained, calibrated and tested on: generated, seeded, pure Python.

Each document belongs to one of three splits ("train", "calibration", "held_out") by a rule on its content, never by the
order it is drawn in, so that no seed can make the splits overlap:

* arithmetic and word problems: by a hash of the canonical operand pair of every step that is a problem of its own
  (`123+456`, with `456+123` the same); all steps of a problem must lie in its split;
* facts: by the wording of the question (`world.wording_split`); the fact itself must of course be learned;
* prose: by a hash of the document's text.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from phiforge.checkpoint.nano.prose import story
from phiforge.checkpoint.nano.world import CLAUSES, Fact, question, wordings, world

END_OF_TEXT, SYSTEM, USER, ASSISTANT, END = "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
THINK, END_THINK = "<think>", "</think>"
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Think step by step, then give the answer.")
# Shares of documents in the training stream; the rest is prose.
MIX = {"arithmetic": 0.18, "word_problems": 0.15, "facts": 0.55}

_NAMES = "Ana Ben Chen Dina Eli Fay Gus Hana Ivan June Kofi Lena Milo Nora Omar Pia Quin Rosa Sam Tara".split()
_THINGS = "apples books coins pens shells cards stamps cups keys bricks".split()
_BOXES = "boxes bags baskets jars sacks".split()
_PAIR = re.compile(r"(?<!\d)(\d+) ?([+*-]) ?(\d+)(?!\d)")


@dataclass(frozen=True)
class Document:
    """One generated document: its kind, the rendered text, and for chats the question and the final answer."""

    kind: str
    text: str
    question: str = ""
    answer: str = ""
    keys: tuple[str, ...] = ()


def _bucket(key: str) -> str:
    """The split of a key by its hash: 10% held out, 5% calibration, the rest training."""
    slot = int.from_bytes(hashlib.sha256(f"phi-4-nano/{key}".encode()).digest()[:4], "big") % 20
    return "held_out" if slot < 2 else "calibration" if slot == 2 else "train"


def pair_key(a: int, op: str, b: int) -> str:
    """The canonical name of a two-operand problem: `12+7` and `7+12` are one."""
    low, high = (min(a, b), max(a, b)) if op != "-" else (a, b)
    return f"{low}{op}{high}"


def pair_split(a: int, op: str, b: int) -> str:
    """The split of a two-operand problem.

    Pairs that may stand as a partial step inside another problem (digit steps below 20, multiples of ten from long
    multiplication) are always training pairs, so that the steps of a training solution never spell a held-out problem.
    """
    if max(a, b) < 20 or (op in "+*" and (a % 10 == 0 or b % 10 == 0)):
        return "train"
    return _bucket(pair_key(a, op, b))


def text_split(text: str) -> str:
    """The split of a prose document."""
    return _bucket(f"prose/{text}")


def add_steps(a: int, b: int) -> str:
    """Column addition from the ones upward, one step per digit with its carry: `7+5=12, 1+0+1=2`."""
    steps, carry = [], 0
    for i in range(max(len(str(a)), len(str(b)))):
        p, q = a // 10**i % 10, b // 10**i % 10
        total = p + q + carry
        steps.append(f"{p}+{q}" + (f"+{carry}" if carry else "") + f"={total}")
        carry = total // 10
    return ", ".join(steps)


def subtract_steps(a: int, b: int) -> str:
    """Column subtraction (a >= b) from the ones upward; a borrowed ten is written before the digit: `12-5=7`."""
    steps, borrow = [], 0
    for i in range(len(str(a))):
        p, q = a // 10**i % 10, b // 10**i % 10
        taken = f"-{borrow}" if borrow else ""
        total = p - q - borrow
        borrow = int(total < 0)
        steps.append(f"{'1' if borrow else ''}{p}-{q}{taken}={total + 10 * borrow}")
    return ", ".join(steps)


def solve(a: int, op: str, b: int) -> tuple[str, int]:
    """The worked solution of `a op b` and its result: `123+9: 3+9=12, 2+0+1=3, 1+0=1`."""
    head = f"{a}{op}{b}: "
    if op == "+":
        return head + add_steps(a, b), a + b
    if op == "-":
        return head + subtract_steps(a, b), a - b
    tens, ones = a // 10 * 10, a % 10
    parts = f"{tens}*{b}={tens * b}, {ones}*{b}={ones * b}, "
    return head + parts + solve(tens * b, "+", ones * b)[0], a * b


def render_prompt(user: str, system: str = "") -> str:
    """The prompt of a chat as the chat template renders it with a generation prompt."""
    head = f"{SYSTEM}{system}{END}" if system else ""
    return f"{head}{USER}{user}{END}{ASSISTANT}"


def _chat(kind: str, rng: random.Random, user: str, thought: str, answer: str, keys: tuple[str, ...]) -> Document:
    """A chat of one turn, one in ten under a system prompt."""
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.1 else ""
    text = f"{render_prompt(user, system)}{THINK}{thought}{END_THINK}{answer}{END}"
    return Document(kind, text, user, answer, keys)


def _in_split(steps: Iterable[tuple[int, str, int]], split: str) -> bool:
    """Whether every step is a problem of the split."""
    return all(pair_split(*step) == split for step in steps)


def _draw_pair(rng: random.Random, op: str, limit: int) -> tuple[int, int]:
    """Two operands of an operation; the difference is never negative, a product is at most 99 times 9."""
    if op == "*":
        return rng.randrange(2, min(limit, 100)), rng.randrange(2, 10)
    a, b = rng.randrange(1, limit), rng.randrange(1, limit)
    return (max(a, b), min(a, b)) if op == "-" else (a, b)


def arithmetic(rng: random.Random, split: str) -> Document:
    """A bare arithmetic question of the split: sums and differences below 1000, two digits times one."""
    while True:
        op = rng.choice("++--*")
        a, b = _draw_pair(rng, op, rng.choice((10, 100, 1000, 1000)))
        if _in_split([(a, op, b)], split):
            break
    thought, result = solve(a, op, b)
    user = rng.choice(("What is {}?", "What is {}?", "Calculate {}.", "Please work out {}.")).format(f"{a} {op} {b}")
    return _chat("arithmetic", rng, user, thought, str(result), (pair_key(a, op, b),))


def _word_story(rng: random.Random) -> tuple[str, list[tuple[int, str, int]]]:
    """A word problem's text and its steps; the result of a step is the first operand of the next."""
    n, m = rng.sample(_NAMES, 2)
    t, box = rng.choice(_THINGS), rng.choice(_BOXES)
    kind = rng.choice(("gain", "loss", "boxes", "compare", "gain_loss", "boxes_gain"))
    a, b = _draw_pair(rng, "*" if kind.startswith("boxes") else "-" if kind in ("loss", "compare") else "+", 200)
    if kind == "gain":
        return f"{n} has {a} {t} and gets {b} more. How many {t} does {n} have?", [(a, "+", b)]
    if kind == "loss":
        return f"{n} has {a} {t} and gives away {b}. How many {t} are left?", [(a, "-", b)]
    if kind == "boxes":
        return f"{n} has {b} {box} with {a} {t} in each. How many {t} does {n} have?", [(a, "*", b)]
    if kind == "compare":
        return f"{n} has {a} {t} and {m} has {b}. How many more {t} does {n} have?", [(a, "-", b)]
    if kind == "gain_loss":
        c = rng.randrange(1, a + b)
        story_text = f"{n} has {a} {t}, gets {b} more and gives away {c}. How many {t} are left?"
        return story_text, [(a, "+", b), (a + b, "-", c)]
    c = rng.randrange(1, 200)
    story_text = f"{n} has {b} {box} with {a} {t} in each and gets {c} more. How many {t} does {n} have?"
    return story_text, [(a, "*", b), (a * b, "+", c)]


def word_problem(rng: random.Random, split: str) -> Document:
    """A word problem of one or two steps, all of whose steps are problems of the split."""
    while True:
        user, steps = _word_story(rng)
        if _in_split(steps, split):
            break
    solved = [solve(*step) for step in steps]
    thought = ". ".join(f"{work}, so {result}" for work, result in solved)
    return _chat("word_problems", rng, user, thought, str(solved[-1][1]), tuple(pair_key(*step) for step in steps))


def fact_question(rng: random.Random, split: str, fact: Fact | None = None) -> Document:
    """A question after a fact of the world in a wording of the split; the thought restates the fact."""
    fact = fact or rng.choice(world().facts())
    frame, clause = rng.choice(wordings(split))
    key = f"{fact.attribute}/{frame}/{clause}"
    return _chat("facts", rng, question(fact, frame, clause), fact.statement, fact.value, (key,))


def prose(rng: random.Random, split: str, sentences: int = 0) -> Document:
    """A prose document of the split with about `sentences` sentences (drawn between 4 and 24 if zero)."""
    while True:
        text = story(rng, sentences or rng.randrange(4, 25))
        if text_split(text) == split:
            return Document("prose", text, keys=(text,))


_MAKERS: dict[str, Callable[[random.Random, str], Document]] = {
    "arithmetic": arithmetic,
    "word_problems": word_problem,
    "facts": fact_question,
}


def stream(split: str, seed: int, mix: dict[str, float] | None = None) -> Iterator[Document]:
    """An endless seeded stream of documents of a split, by the shares of `mix` (default `MIX`; the rest is prose)."""
    rng = random.Random(f"{split}/{seed}")
    shares = MIX if mix is None else mix
    kinds, weights = [*shares, "prose"], [*shares.values(), max(0.0, 1.0 - sum(shares.values()))]
    while True:
        kind = rng.choices(kinds, weights)[0]
        yield prose(rng, split) if kind == "prose" else _MAKERS[kind](rng, split)


def long_stream(split: str, seed: int) -> Iterator[Document]:
    """An endless seeded stream of long prose documents (60 to 110 sentences, roughly 700 to 1300 tokens)."""
    rng = random.Random(f"long/{split}/{seed}")
    while True:
        yield prose(rng, split, rng.randrange(60, 111))


def held_out_tasks(kind: str, count: int, seed: int = 1) -> list[Document]:
    """`count` distinct held-out questions of a kind; facts are drawn without repetition."""
    rng = random.Random(f"tasks/{kind}/{seed}")
    facts = iter(rng.sample(world().facts(), count)) if kind == "facts" else None
    found: dict[str, Document] = {}
    while len(found) < count:
        made = fact_question(rng, "held_out", next(facts)) if facts else _MAKERS[kind](rng, "held_out")
        found.setdefault(made.question, made)
    return list(found.values())


def text_set(split: str, chats: int, short: int, long: int, seed: int = 2) -> list[Document]:
    """A fixed set of whole documents of a split: solved chats (by `MIX`), prose, and long prose."""
    chat_mix = {kind: share / sum(MIX.values()) for kind, share in MIX.items()}
    chat_stream, prose_stream = stream(split, seed, chat_mix), stream(split, seed + 1, {})
    far_stream = long_stream(split, seed)
    return [
        *(next(chat_stream) for _ in range(chats)),
        *(next(prose_stream) for _ in range(short)),
        *(next(far_stream) for _ in range(long)),
    ]


def operand_pairs(text: str) -> set[str]:
    """The canonical names of all two-operand problems spelled anywhere in a text."""
    return {pair_key(int(a), op, int(b)) for a, op, b in _PAIR.findall(text)}


def wording_of(user: str) -> str:
    """A fact question with its name blanked, or an empty string if it asks for no fact of the world."""
    for entity in (*world().people, *world().cities):
        if entity in user:
            return user.replace(entity, "{n}")
    return ""


def users(text: str) -> list[str]:
    """The user turns of a rendered document."""
    return [part.split(END)[0] for part in text.split(USER)[1:]]


def find_leaks(seen: Iterable[str], questions: Iterable[str], pairs: Iterable[str], texts: Iterable[str]) -> list[str]:
    """What of the held-out material stands in other (training or calibration) documents.

    Args:
        seen: rendered documents of the other splits.
        questions: held-out questions; fact questions also count as leaked if only their wording was seen.
        pairs: canonical operand pairs of the held-out problems.
        texts: held-out documents.

    Returns:
        One line per leak; empty if there is none.
    """
    seen_list = list(seen)
    seen_users = [user for text in seen_list for user in users(text)]
    seen_wordings = {wording_of(user) for user in seen_users} - {""}
    seen_pairs = set().union(*(operand_pairs(text) for text in seen_list))
    asked, documents = set(seen_users), set(seen_list)
    leaks = [f"question: {q}" for q in questions if q in asked or wording_of(q) in seen_wordings]
    leaks += [f"operands: {pair}" for pair in pairs if pair in seen_pairs]
    leaks += [f"text: {text[:60]}" for text in texts if text in documents]
    return leaks


ATTRIBUTES = tuple(CLAUSES)
