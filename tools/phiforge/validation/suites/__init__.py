"""Task suites: files of questions in the formats of known benchmarks, and the judging of answers. No model is here."""

from __future__ import annotations

from phiforge.validation.suites.formats import FORMATS, chosen, is_right
from phiforge.validation.suites.loading import load_suites
from phiforge.validation.suites.model import Choice, Exercise, Format, Suite

__all__ = ["FORMATS", "Choice", "Exercise", "Format", "Suite", "chosen", "is_right", "load_suites"]
