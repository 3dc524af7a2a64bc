"""The calibration texts of a quantize pass, as token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from transformers import AutoTokenizer

from phiforge import errors
from phiforge.calibration import load_calibration
from phiforge.decoder.decoder import choose_texts
from phiforge.hashing import hash_file


class CalibrationOptions(Protocol):
    """What the options of a pass that takes calibration texts have."""

    @property
    def calibration(self) -> str | None:
        """The file of texts."""

    @property
    def calibration_sha256(self) -> str | None:
        """The file's hash, None for any file."""

    @property
    def calibration_tokens(self) -> int:
        """Tokens to take of the texts."""


def calibration_tokens(checkpoint: Path, options: CalibrationOptions) -> list[list[int]]:
    """Return the token ids of the texts that the pass's options name; a relative path is of the working folder.

    Raises:
        CalibrationInvalidError: The options name no file, another file than the one they were resolved with, or one
            that cannot be used.
    """
    if options.calibration is None:
        raise errors.CalibrationInvalidError(
            "This pass needs calibration texts, and none are named.",
            why="Its options have no `calibration` file; a build fills it in.",
            fix="Run the pipeline by `phiforge build`, or name a JSONL file with id and text.",
        )
    path = Path(options.calibration)
    texts = load_calibration(path)
    if options.calibration_sha256 not in (None, hash_file(path)):
        raise errors.CalibrationInvalidError(
            f"The calibration texts {path} are not those of the plan.",
            why="Their SHA-256 is another than the one in the workflow.",
            fix="Run `phiforge build` again, which plans anew.",
        )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    return choose_texts([tokenizer(text.text)["input_ids"] for text in texts], options.calibration_tokens)
