"""The report's JSON file and its committed schema."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from phiforge import errors
from phiforge.evidence import dump_evidence
from phiforge.reporting import json_schema, load_report, report_json
from unit.reporting import samples

ROOT = Path(__file__).parents[3]


def test_the_committed_schema_is_the_code_s() -> None:
    assert (ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8") == json_schema()


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report_json(samples.fleet()), encoding="utf-8")
    assert load_report(path) == samples.fleet()


def test_a_report_of_many_kinds_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = samples.npu_report()
    path.write_text(report_json(samples.fleet(report)), encoding="utf-8")
    assert load_report(path).report_for(report.profile.name) == report
    assert sorted(map(dump_evidence, report.evidence)) == sorted(map(dump_evidence, samples.npu_evidence()))


def test_a_report_from_before_the_npu_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    data = json.loads(report_json(samples.fleet()))
    old = data["entries"][0]["report"]
    del old["further"], old["notices"], old["variant"]["npu"], old["profile"]["soc_source"]
    path.write_text(json.dumps(data), encoding="utf-8")
    assert load_report(path) == samples.fleet()


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    drift = samples.drift().model_copy(update={"perplexity_ratio": math.nan, "perplexity_variant": math.inf})
    path = tmp_path / "report.json"
    path.write_text(report_json(samples.fleet(samples.report(evidence=(drift,)))), encoding="utf-8")
    loaded = load_report(path).report_for("cpu-x64").drift
    assert loaded is not None
    assert math.isnan(loaded.perplexity_ratio)
    assert loaded.perplexity_variant == math.inf


def test_keys_are_sorted() -> None:
    text = report_json(samples.fleet())
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("change", [{"schema_version": "2.0"}, {"surprise": 1}, {"entries": None}])
def test_a_report_that_breaks_the_schema_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({**json.loads(report_json(samples.fleet())), **change}), encoding="utf-8")
    with pytest.raises(errors.EvidenceInvalidError, match="cannot be used"):
        load_report(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(content)
    with pytest.raises(errors.EvidenceInvalidError):
        load_report(path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.EvidenceInvalidError):
        load_report(tmp_path / "absent.json")
