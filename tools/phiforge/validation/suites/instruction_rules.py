"""The rules of IFEval that can be checked by a program: what an answer must have for each.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", and the checkers that Google
Research published with it. Two of these use NLTK's trained models, which are not here: sentences end at `.`, `?` or `!`
with the usual abbreviations left whole, and a capital word is a run of letters, digits and hyphens. Three detect the
language: of these `language:response_language` is left out, and the two on letter case look at the case alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Relation = Literal["less than", "at least"]

CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_HIDDEN = "\0"  # Stands for a full stop that ends no sentence; files of tasks hold no zero byte.
_ABBREVIATION = re.compile(r"\b(Mr|Mrs|Ms|Dr|St|Prof|Capt|Cpt|Lt|Inc|Ltd|Jr|Sr|Co|[A-Za-z])\.")
_DOT_INSIDE = re.compile(r"(?<=\w)\.(?=\w)")
_SENTENCE_END = re.compile(r"[.?!]+")
_CODE_FENCE = re.compile(r"^```(?:json|Json|JSON)?|```$")


class Arguments(BaseModel):
    """The arguments of a rule, by the names that the data set has; a rule takes those that it needs."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    capital_frequency: float = Field(default=0, ge=0)
    capital_relation: Relation = "at least"
    end_phrase: str = Field(default="", min_length=1)
    first_word: str = Field(default="", min_length=1)
    forbidden_words: list[str] = Field(default=[], min_length=1)
    frequency: float = Field(default=0, ge=0)
    keyword: str = Field(default="", min_length=1)
    keywords: list[str] = Field(default=[], min_length=1)
    language: str = ""
    let_frequency: float = Field(default=0, ge=0)
    let_relation: Relation = "at least"
    letter: str = Field(default="", min_length=1, max_length=1)
    nth_paragraph: int = Field(default=1, ge=1)
    num_bullets: float = Field(default=0, ge=0)
    num_highlights: float = Field(default=0, ge=0)
    num_paragraphs: float = Field(default=0, ge=0)
    num_placeholders: float = Field(default=0, ge=0)
    num_sections: float = Field(default=0, ge=0)
    num_sentences: float = Field(default=0, ge=0)
    num_words: float = Field(default=0, ge=0)
    postscript_marker: str = Field(default="", min_length=1)
    prompt_to_repeat: str = Field(default="", min_length=1)
    relation: Relation = "at least"
    section_spliter: str = Field(default="", min_length=1)  # The data set's spelling.


@dataclass(frozen=True)
class Rule:
    """One rule: whether an answer follows it, and the arguments that it cannot do without."""

    follows: Callable[[str, Arguments], bool]
    needs: tuple[str, ...] = ()


def sentences(text: str) -> list[str]:
    """Return the sentences of a text."""
    line = _DOT_INSIDE.sub(_HIDDEN, text.replace("\n", " "))
    line = _ABBREVIATION.sub(rf"\1{_HIDDEN}", line)
    return [part.strip().replace(_HIDDEN, ".") for part in _SENTENCE_END.split(line) if part.strip(" \"'”’)*_")]


def _compare(found: int, relation: Relation, wanted: float) -> bool:
    return found < wanted if relation == "less than" else found >= wanted


def _occurrences(keyword: str, text: str) -> int:
    return len(re.findall(re.escape(keyword.strip()), text, flags=re.IGNORECASE))


def _keywords_exist(text: str, args: Arguments) -> bool:
    return all(_occurrences(keyword, text) for keyword in args.keywords)


def _keyword_frequency(text: str, args: Arguments) -> bool:
    return _compare(_occurrences(args.keyword, text), args.relation, args.frequency)


def _no_forbidden_words(text: str, args: Arguments) -> bool:
    patterns = (rf"\b{re.escape(word)}\b" for word in args.forbidden_words)
    return not any(re.search(pattern, text, flags=re.IGNORECASE) for pattern in patterns)


def _letter_frequency(text: str, args: Arguments) -> bool:
    return _compare(text.lower().count(args.letter.lower()), args.let_relation, args.let_frequency)


def _number_of_sentences(text: str, args: Arguments) -> bool:
    return _compare(len(sentences(text)), args.relation, args.num_sentences)


def _number_of_words(text: str, args: Arguments) -> bool:
    return _compare(len(re.findall(r"\w+", text)), args.relation, args.num_words)


def _number_of_paragraphs(text: str, args: Arguments) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    if not all(parts[1:-1]):
        return False
    return sum(map(bool, parts)) == args.num_paragraphs


def _first_word_of_paragraph(text: str, args: Arguments) -> bool:
    parts = text.split("\n\n")
    count = sum(1 for part in parts if part.strip())
    words = parts[args.nth_paragraph - 1].split() if args.nth_paragraph <= count else []
    if not words:
        return False
    first = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return count == args.num_paragraphs and first.lower() == args.first_word.lower()


def _placeholders(text: str, args: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= args.num_placeholders


def _postscript(text: str, args: Arguments) -> bool:
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    marker = args.postscript_marker.strip()
    return bool(re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()))


def _bullets(text: str, args: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, flags=re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, flags=re.MULTILINE)
    return len(stars) + len(dashes) == args.num_bullets


def _constrained_response(text: str, args: Arguments) -> bool:
    del args
    return any(response in text for response in CONSTRAINED_RESPONSES)


def _highlights(text: str, args: Arguments) -> bool:
    marked = re.findall(r"\*[^\n\*]*\*", text) + re.findall(r"\*\*[^\n\*]*\*\*", text)
    return sum(1 for mark in marked if mark.strip("*").strip()) >= args.num_highlights


def _sections(text: str, args: Arguments) -> bool:
    pattern = rf"\s?{re.escape(args.section_spliter.strip())}\s?\d+\s?"
    return len(re.findall(pattern, text)) >= args.num_sections


def _json(text: str, args: Arguments) -> bool:
    del args
    try:
        json.loads(_CODE_FENCE.sub("", text.strip()).strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, args: Arguments) -> bool:
    del args
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, args: Arguments) -> bool:
    del args
    parts = [part.strip() for part in text.split("******")]
    found = [part for part in parts if part]
    return all(parts[1:-1]) and len(found) == 2 and found[0] != found[1]


def _repeats_prompt(text: str, args: Arguments) -> bool:
    return text.strip().lower().startswith(args.prompt_to_repeat.strip().lower())


def _ends_with(text: str, args: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(args.end_phrase.strip().lower())


def _quoted(text: str, args: Arguments) -> bool:
    del args
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def _capital_words(text: str, args: Arguments) -> bool:
    words = re.findall(r"\w[\w-]*", text)
    return _compare(sum(1 for word in words if word.isupper()), args.capital_relation, args.capital_frequency)


def _all_capital(text: str, args: Arguments) -> bool:
    del args
    return text.isupper()


def _all_lowercase(text: str, args: Arguments) -> bool:
    del args
    return text.islower()


def _no_comma(text: str, args: Arguments) -> bool:
    del args
    return "," not in text


# Needs a detector of languages, which would be a model of its own with errors of its own.
UNSUPPORTED = ("language:response_language",)

RULES: Mapping[str, Rule] = {
    "change_case:capital_word_frequency": Rule(_capital_words, ("capital_frequency", "capital_relation")),
    "change_case:english_capital": Rule(_all_capital),
    "change_case:english_lowercase": Rule(_all_lowercase),
    "combination:repeat_prompt": Rule(_repeats_prompt, ("prompt_to_repeat",)),
    "combination:two_responses": Rule(_two_responses),
    "detectable_content:number_placeholders": Rule(_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": Rule(_postscript, ("postscript_marker",)),
    "detectable_format:constrained_response": Rule(_constrained_response),
    "detectable_format:json_format": Rule(_json),
    "detectable_format:multiple_sections": Rule(_sections, ("section_spliter", "num_sections")),
    "detectable_format:number_bullet_lists": Rule(_bullets, ("num_bullets",)),
    "detectable_format:number_highlighted_sections": Rule(_highlights, ("num_highlights",)),
    "detectable_format:title": Rule(_title),
    "keywords:existence": Rule(_keywords_exist, ("keywords",)),
    "keywords:forbidden_words": Rule(_no_forbidden_words, ("forbidden_words",)),
    "keywords:frequency": Rule(_keyword_frequency, ("keyword", "frequency", "relation")),
    "keywords:letter_frequency": Rule(_letter_frequency, ("letter", "let_frequency", "let_relation")),
    "length_constraints:nth_paragraph_first_word": Rule(
        _first_word_of_paragraph, ("num_paragraphs", "nth_paragraph", "first_word")
    ),
    "length_constraints:number_paragraphs": Rule(_number_of_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_sentences": Rule(_number_of_sentences, ("num_sentences", "relation")),
    "length_constraints:number_words": Rule(_number_of_words, ("num_words", "relation")),
    "punctuation:no_comma": Rule(_no_comma),
    "startend:end_checker": Rule(_ends_with, ("end_phrase",)),
    "startend:quotation": Rule(_quoted),
}
