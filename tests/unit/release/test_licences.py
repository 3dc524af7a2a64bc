from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge.evidence import Tasks, TaskSource
from phiforge.release.licences import check_questions, licence_of, recognize
from unit.release.packages import CPU, ROOT, SOURCE, Made, evidence, profile

MIT = (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        MIT,
        MIT.replace("\n", "\r\n"),
        MIT.replace("MIT License", "The MIT License (MIT)"),
        "Microsoft.\nCopyright (c) Microsoft Corporation.\n\n" + MIT,
        " ".join(MIT.split("\n\n", 2)[2].split()),
    ],
)
def test_mit_is_known_whoever_owns_it(text: str) -> None:
    assert recognize(text) == "MIT"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MIT",
        MIT.replace("without restriction", "with restriction"),
        MIT + "\nNot for commercial use.\n",
        "For research only.\n" + MIT,
    ],
)
def test_a_licence_with_other_words_is_not_known(text: str) -> None:
    assert recognize(text) is None


def test_every_licence_of_a_folder_must_be_known(tmp_path: Path) -> None:
    assert licence_of(tmp_path) == (None, "there is no LICENSE file")
    (tmp_path / "LICENSE").write_text(MIT, encoding="utf-8")
    assert licence_of(tmp_path) == ("MIT", "")
    (tmp_path / "LICENSE-data").write_text("mine", encoding="utf-8")
    licence, why = licence_of(tmp_path)
    assert licence is None
    assert why.startswith("LICENSE-data is not word for word one of")


def test_questions_of_no_known_licence_are_named() -> None:
    for source, outcome in ((Made().source, "pass"), (None, "fail")):
        (found,) = check_questions(list(evidence(Made(source=source), "a" * 64, profile(CPU, "cpu")).values()))
        assert (found.budget, str(found.outcome)) == ("licence:sums", outcome)


def tasks(**update: Any) -> Tasks:
    """The answers of a small release's evidence, changed."""
    (made,) = (item for item in evidence(Made(), "a" * 64, profile(CPU, "cpu")).values() if isinstance(item, Tasks))
    return made.model_copy(update=update)


def of_licence(licence: str | None) -> Tasks:
    made = tasks()
    source = SOURCE.model_copy(update={"licence": licence}) if licence is not None else None
    return made.model_copy(update={"scores": (made.scores[0].model_copy(update={"source": source}),)})


@given(st.lists(st.sampled_from(["MIT", "Apache-2.0", "unknown", "", None]), min_size=1, max_size=5))
def test_no_record_hides_another_s_unknown_licence(licences: list[str | None]) -> None:
    (found,) = check_questions([of_licence(licence) for licence in licences])
    known = all(licence in ("MIT", "Apache-2.0") for licence in licences)
    assert (found.budget, found.outcome) == ("licence:sums", "pass" if known else "fail")
    assert not known or all(str(licence) in found.reason for licence in licences)


def test_answers_that_name_no_task_are_of_no_known_licence() -> None:
    (found,) = check_questions([tasks(scores=())])
    assert (found.budget, found.outcome) == ("licence:all", "fail")


@pytest.mark.parametrize("licence", ["", "???", "UNLICENSED", "<script>", "MIT and more", "MIT AND", "none"])
def test_what_is_no_licence_is_not_known(licence: str) -> None:
    assert _of_questions(licence) == "fail"


@pytest.mark.parametrize(
    "licence", ["MIT", "CC-BY-4.0", "(MIT OR Apache-2.0) AND CC0-1.0", "GPL-2.0+", "LicenseRef-own"]
)
def test_an_spdx_expression_is_known(licence: str) -> None:
    assert _of_questions(licence) == "pass"


def _of_questions(licence: str) -> str:
    made = evidence(Made(), "a" * 64, profile(CPU, "cpu"))["tasks.json"]
    assert isinstance(made, Tasks)
    source = TaskSource(file="a.jsonl", format="plain", split="test", licence=licence, sha256="a" * 64)
    scores = tuple(score.model_copy(update={"source": source}) for score in made.scores)
    (found,) = check_questions([made.model_copy(update={"scores": scores})])
    return str(found.outcome)
