"""Plain generated prose about the made-up world: short scenes with a person, a city, weather, things and letters.

The sentences are templates, but their slots are filled from a document's own cast, so that a reader (or a model) who
keeps track of the cast, the place and the season predicts them better than one who does not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from phiforge.checkpoint.nano.world import CITY_ATTRIBUTES, PERSON_ATTRIBUTES, world

_SEASONS = "spring summer autumn winter".split()
_WEATHER = {
    "spring": ("the rain was soft", "the fields turned green", "a warm wind came from the south"),
    "summer": ("the sun burned on the roofs", "the air stood still", "the wells were almost dry"),
    "autumn": ("the leaves fell on the road", "a grey fog hung over the water", "the storm broke the old trees"),
    "winter": ("snow covered the walls", "the ice was thick on the river", "the nights were long and cold"),
}
_PLACES = "market harbour bridge tower mill garden library inn temple gate square workshop".split()
_OBJECTS = "lamp rope ladder barrel map letter clock drum mirror saddle blanket kettle basket violin".split()
_KINDS = "old red heavy broken small silver wooden strange painted empty".split()
_MOODS = "tired glad angry proud worried quiet hungry curious".split()
_TIMES = ("In the morning", "At noon", "In the evening", "Late at night", "The next day", "After a week", "Soon")
_SCENES = (
    "{time} {f} walked to the {place}.",
    "{time} {f} met {g} near the {place}.",
    "It was {season} in {c}, and {weather}.",
    "{f} carried a {kind} {object} and was {mood}.",
    '"Have you seen my {object}?" asked {f}.',
    '"It is in the {place}," said {g}, "under the {kind} {object2}."',
    "{g} had lost a {object2} and looked for it in the {place}.",
    "Nobody in {c} knew who had made the {kind} {object}.",
    "{f} was {mood}, but {g} was {mood2}.",
    "{time} they sold the {object} for {count} coins and bought a {kind} {object2}.",
    "A letter for {g} came to the {place}.",
    "{g} read it twice and became {mood2}.",
    "The people of {c} gathered in the {place} because {weather}.",
    "{f} repaired the {object} in {count} days.",
    "They ate bread and fish in the {place} and talked about {c}.",
    "{time} {g} left the {place} without a word.",
    "{f} hid the {object} behind the {place}.",
    "There were {count} {kind} boats on the water.",
    "When {weather}, {f} stayed in the {place} with {g}.",
    "{g} gave the {object} to {f} and asked for nothing.",
)
_COUNTS = "two three four five six seven eight nine ten twelve twenty".split()


@dataclass
class _Cast:
    """What a scene is about: two people, a city, a season and two things."""

    first: str
    second: str
    city: str
    season: str
    object: str
    object2: str
    place: str


def _draw_cast(rng: random.Random) -> _Cast:
    """A new cast; the scene plays where its first person was born."""
    first, second = rng.sample(list(world().people), 2)
    object1, object2 = rng.sample(_OBJECTS, 2)
    city = world().people[first]["birthplace"].value
    return _Cast(first, second, city, rng.choice(_SEASONS), object1, object2, rng.choice(_PLACES))


def _life(rng: random.Random, name: str) -> list[str]:
    """What is known of a person: the facts one by one or drawn together."""
    facts = world().people[name]
    if rng.random() < 0.5:
        order = rng.sample(PERSON_ATTRIBUTES, 3)
        return [facts[attribute].statement for attribute in order]
    place, year, work = (facts[attribute].value for attribute in PERSON_ATTRIBUTES)
    return [f"{name} was born in {place} in the year {year} and works as a {work}."]


def _place(rng: random.Random, city: str) -> list[str]:
    """What is known of a city."""
    facts = world().cities[city]
    return [facts[attribute].statement for attribute in rng.sample(CITY_ATTRIBUTES, rng.randrange(1, 4))]


def _scene(rng: random.Random, cast: _Cast, template: str) -> str:
    """One sentence of a scene from its template."""
    if rng.random() < 0.3:
        cast.place = rng.choice(_PLACES)
    mood, mood2 = rng.sample(_MOODS, 2)
    return template.format(
        time=rng.choice(_TIMES),
        f=cast.first.split()[0],
        g=cast.second.split()[0],
        c=cast.city,
        season=cast.season,
        weather=rng.choice(_WEATHER[cast.season]),
        place=cast.place,
        object=cast.object,
        object2=cast.object2,
        kind=rng.choice(_KINDS),
        mood=mood,
        mood2=mood2,
        count=rng.choice(_COUNTS),
    )


def story(rng: random.Random, sentences: int) -> str:
    """A document of about `sentences` sentences in paragraphs, each with a cast of its own."""
    paragraphs: list[str] = []
    told = 0
    while told < sentences:
        cast = _draw_cast(rng)
        lines = _life(rng, cast.first)
        if rng.random() < 0.5:
            lines += _life(rng, cast.second)
        if rng.random() < 0.5:
            lines += _place(rng, rng.choice((cast.city, rng.choice(list(world().cities)))))
        lines += [_scene(rng, cast, template) for template in rng.sample(_SCENES, rng.randrange(2, 7))]
        lines = lines[: max(1, sentences - told)]
        told += len(lines)
        paragraphs.append(" ".join(lines))
    return "\n\n".join(paragraphs)
