from __future__ import annotations

from pathlib import Path

import pytest

from phiforge.release.licences import check_questions, licence_of, recognize
from unit.release.packages import CPU, ROOT, Made, evidence, profile

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
