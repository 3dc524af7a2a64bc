"""The made-up world phi-4-nano learns by heart: people and cities, their facts, and the wordings that ask for them.

Every question is a frame ("Do you know {}?") around a clause ("where Mira Toll was born"). Each (frame, clause) pair
belongs to exactly one split, so a held-out wording recombines words the model has seen but is itself never trained on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

WORLD_SEED = 40_404
PEOPLE = 600
CITIES = 80
SPLITS = ("train", "calibration", "held_out")

_ONSETS = ("b", "br", "d", "dr", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "tr", "v", "w", "z")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("l", "m", "n", "r", "s", "th", "nd", "sk")
_FIRST_ENDINGS = ("a", "en", "ia", "o", "or", "el")
_LAST_ENDINGS = ("er", "ard", "old", "ov", "ley", "ing")
_CITY_ENDINGS = ("mora", "burg", "vale", "port", "gate", "stad", "wick", "fell")
PROFESSIONS = tuple(
    "weaver baker smith potter painter doctor teacher sailor miller tailor mason hunter farmer singer poet judge "
    "carpenter shepherd gardener brewer fisher printer soldier clerk jeweller tanner cook builder merchant scribe "
    "piper dancer glazier chandler cooper saddler".split()
)
RIVERS = tuple("Alden Brisk Corva Dune Elm Fara Grell Hask Ilma Jorn Kest Lorn Mire Nessa Orl Prade Quen Ruhl".split())

FRAMES = (
    "{direct}?",
    "Do you know {indirect}?",
    "Can you tell me {indirect}?",
    "Please say {indirect}.",
    "I want to know {indirect}.",
    "A question: {lower}?",
    "Tell me, {lower}?",
    "Please tell me {indirect}.",
    "I ask you: {lower}?",
    "Can you say {indirect}?",
)
# Per attribute: (direct question without its question mark, indirect clause).
CLAUSES: dict[str, tuple[tuple[str, str], ...]] = {
    "birthplace": (
        ("Where was {n} born", "where {n} was born"),
        ("In which city was {n} born", "in which city {n} was born"),
        ("What is the birthplace of {n}", "what the birthplace of {n} is"),
        ("Which city does {n} come from", "which city {n} comes from"),
    ),
    "birth_year": (
        ("When was {n} born", "when {n} was born"),
        ("In which year was {n} born", "in which year {n} was born"),
        ("What is the birth year of {n}", "what the birth year of {n} is"),
        ("Which year saw the birth of {n}", "which year saw the birth of {n}"),
    ),
    "profession": (
        ("What is the work of {n}", "what the work of {n} is"),
        ("What is the trade of {n}", "what the trade of {n} is"),
        ("Which trade does {n} have", "which trade {n} has"),
        ("As what does {n} work", "as what {n} works"),
    ),
    "founded": (
        ("When was the city of {n} founded", "when the city of {n} was founded"),
        ("In which year was {n} founded", "in which year {n} was founded"),
        ("What is the founding year of {n}", "what the founding year of {n} is"),
        ("Which year saw the founding of {n}", "which year saw the founding of {n}"),
    ),
    "ruler": (
        ("Who rules {n}", "who rules {n}"),
        ("Who is the ruler of {n}", "who the ruler of {n} is"),
        ("Which person rules the city of {n}", "which person rules the city of {n}"),
        ("What is the name of the ruler of {n}", "what the name of the ruler of {n} is"),
    ),
    "river": (
        ("On which river does {n} lie", "on which river {n} lies"),
        ("Which river runs through {n}", "which river runs through {n}"),
        ("What is the river of {n}", "what the river of {n} is"),
        ("By which river does the city of {n} lie", "by which river the city of {n} lies"),
    ),
}
STATEMENTS = {
    "birthplace": "{n} was born in {v}.",
    "birth_year": "{n} was born in the year {v}.",
    "profession": "{n} works as a {v}.",
    "founded": "{n} was founded in the year {v}.",
    "ruler": "{n} is ruled by {v}.",
    "river": "{n} lies on the river {v}.",
}
PERSON_ATTRIBUTES = ("birthplace", "birth_year", "profession")
CITY_ATTRIBUTES = ("founded", "ruler", "river")


@dataclass(frozen=True)
class Fact:
    """One fact of the world: the entity's name, the attribute's name and its value as text."""

    name: str
    attribute: str
    value: str

    @property
    def statement(self) -> str:
        """The fact as a plain sentence, the form used in prose and inside `<think>`."""
        return STATEMENTS[self.attribute].format(n=self.name, v=self.value)


@dataclass(frozen=True)
class World:
    """All facts by entity name: `people` and `cities` map a name to its facts by attribute."""

    people: dict[str, dict[str, Fact]]
    cities: dict[str, dict[str, Fact]]

    def facts(self) -> list[Fact]:
        """All facts in a fixed order: people first, then cities."""
        entities = [*self.people.values(), *self.cities.values()]
        return [fact for entity in entities for fact in entity.values()]


def _names(rng: random.Random, endings: tuple[str, ...], count: int, taken: set[str]) -> list[str]:
    """Draws `count` new capitalised names (onset, vowel, coda, ending) and adds them to `taken`."""
    names: list[str] = []
    while len(names) < count:
        name = (rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) + rng.choice(endings)).capitalize()
        if name not in taken:
            taken.add(name)
            names.append(name)
    return names


def _entity(name: str, values: dict[str, str]) -> dict[str, Fact]:
    """The facts of one entity by attribute."""
    return {attribute: Fact(name, attribute, value) for attribute, value in values.items()}


@lru_cache(maxsize=1)
def world() -> World:
    """Builds the world; always the same one, from `WORLD_SEED`."""
    rng = random.Random(WORLD_SEED)
    taken: set[str] = set()
    firsts = _names(rng, _FIRST_ENDINGS, 40, taken)
    lasts = _names(rng, _LAST_ENDINGS, 50, taken)
    cities = _names(rng, _CITY_ENDINGS, CITIES, taken)
    people = rng.sample([f"{first} {last}" for first in firsts for last in lasts], PEOPLE)
    rulers = rng.sample(people, CITIES)
    people_facts = {
        name: _entity(
            name,
            {
                "birthplace": rng.choice(cities),
                "birth_year": str(rng.randrange(1200, 1800)),
                "profession": rng.choice(PROFESSIONS),
            },
        )
        for name in people
    }
    city_facts = {
        name: _entity(name, {"founded": str(rng.randrange(600, 1200)), "ruler": ruler, "river": rng.choice(RIVERS)})
        for name, ruler in zip(cities, rulers, strict=True)
    }
    return World(people_facts, city_facts)


def wording_split(frame: int, clause: int) -> str:
    """The split a question wording belongs to: of the ten frames around a clause seven are trained, two held out."""
    slot = (frame + 3 * clause) % 10
    if slot in (2, 7):
        return "held_out"
    return "calibration" if slot == 4 else "train"


@lru_cache(maxsize=len(SPLITS))
def wordings(split: str) -> tuple[tuple[int, int], ...]:
    """All (frame, clause) index pairs of a split."""
    pairs = [(frame, clause) for frame in range(len(FRAMES)) for clause in range(4)]
    return tuple(pair for pair in pairs if wording_split(*pair) == split)


def question(fact: Fact, frame: int, clause: int) -> str:
    """The question that asks for `fact` in the wording (frame, clause)."""
    direct, indirect = (part.format(n=fact.name) for part in CLAUSES[fact.attribute][clause])
    return FRAMES[frame].format(direct=direct, indirect=indirect, lower=direct[0].lower() + direct[1:])
