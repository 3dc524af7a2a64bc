"""`report` over several packages: each piece of evidence goes to the package it is of, and is named with its file."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from phiforge import errors
from phiforge.evidence import Latency, dump_evidence
from phiforge.hashing import hash_file, hash_files, hash_listing
from phiforge.packaging.verify import read_sums, verify_package
from phiforge.packaging.write import content_hash
from phiforge.reporting import Fleet, load_report
from phiforge.variant import RECORD_FILE, VariantRecord
from phiforge.verbs.package import publish
from phiforge.verbs.report import report
from phiforge.verbs.subject import find_subjects
from unit.packages import PROFILE, device_file, npu_input, npu_package, npu_stage, on_device, write_file
from unit.reporting import samples


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return npu_package(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of another variant."""
    folder = tmp_path_factory.mktemp("second")
    stage = npu_stage(folder / "stage")
    (stage / "model" / "part0.bin").write_bytes(b"other binary")
    record = VariantRecord.model_validate_json((stage / RECORD_FILE).read_bytes())
    sha256 = hash_listing(hash_files(stage / "model"))
    (stage / RECORD_FILE).write_text(record.model_copy(update={"sha256": sha256}).model_dump_json(), encoding="utf-8")
    final = folder / "q.ortpackage"
    publish([npu_input(stage)], final, ())
    return final


def _latencies(fleet: Fleet) -> list[int]:
    return [sum(isinstance(item, Latency) for item in entry.report.evidence) for entry in fleet.entries]


def test_packages_stand_in_one_report_with_their_content(first: Path, second: Path, tmp_path: Path) -> None:
    made = report([first, second, first], output=tmp_path / "out")
    assert [entry.package for entry in made.fleet.entries] == ["p.ortpackage", "q.ortpackage"]
    assert [entry.content_sha256 for entry in made.fleet.entries] == [
        content_hash(read_sums(package)) for package in (first, second)
    ]
    assert len({entry.key for entry in made.fleet.entries}) == 2
    assert load_report(made.files.json) == made.fleet
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "llama-bench.json",
        "perf.yaml",
        "report.html",
        "report.json",
        "report.md",
    ]


def test_evidence_goes_to_the_package_it_is_of(first: Path, second: Path, tmp_path: Path) -> None:
    file = write_file(tmp_path, device_file(second), "device.json")
    made = report([first, second], output=tmp_path / "out", evidence=[file])
    assert _latencies(made.fleet) == [0, 1]
    (subject,) = find_subjects(first)
    record = tmp_path / "latency-qnn-x-elite.json"
    measured = on_device(samples.latency(variant_sha256=subject.sha256))
    record.write_text(dump_evidence(measured), encoding="utf-8")
    made = report([first, second], output=tmp_path / "out", evidence=[file, record])
    assert _latencies(made.fleet) == [1, 1]


def test_evidence_of_none_of_them_is_refused(first: Path, second: Path, tmp_path: Path) -> None:
    record = tmp_path / "latency-qnn-x-elite.json"
    record.write_text(dump_evidence(samples.latency(variant_sha256="0" * 64)), encoding="utf-8")
    for path in (record, tmp_path / "absent.json"):
        with pytest.raises(errors.EvidenceInvalidError, match=path.name):
            report([first, second], output=tmp_path / "out", evidence=[path])
        assert not (tmp_path / "out").exists()


def test_every_source_leads_to_the_file_and_has_its_hash(first: Path, tmp_path: Path) -> None:
    output = tmp_path / "some where" / "out"
    folder = tmp_path / "from #1 devices"
    folder.mkdir()
    file = write_file(folder, device_file(first), "device-1.json")
    made = report([first], output=output, evidence=[file])
    (entry,) = made.fleet.entries
    for source in entry.sources:
        assert source.href is not None
        path = output / unquote(source.href)
        assert hash_file(path) == source.sha256
        assert source.file.endswith(path.name)
    measured = [source.file for source in entry.sources if source.file == "device-1.json"]
    assert len(measured) == 2  # drift and latency
    assert f'href="{entry.sources[0].href}"' in made.files.html.read_text(encoding="utf-8")


def test_a_package_s_own_report_leads_to_its_evidence(first: Path) -> None:
    verify_package(first)
    folder = first / "report"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md"]
    (entry,) = load_report(folder / "report.json").entries
    assert entry.report.profile.name == PROFILE.stem
    assert entry.content_sha256 == content_hash(read_sums(first))
    for source in entry.sources:
        assert source.href == f"../{source.file}"
        assert hash_file(folder / source.href) == source.sha256


def test_a_comparison_counts_for_its_profile_alone(tmp_path: Path) -> None:
    package = npu_package(tmp_path, profiles=(PROFILE, PROFILE.with_name("qnn-x-plus.toml")))
    (subject,) = find_subjects(package)
    record = json.loads(dump_evidence(on_device(samples.latency(variant_sha256=subject.sha256))))
    comparison = {
        "evidence": "comparison",
        "kind": "measured",
        "conditions": record["conditions"],
        "variant_sha256": subject.sha256,
        "against_sha256": "1" * 64,
        "rounds": 3,
        "rows": [
            {
                "metric": "decode",
                "prompt_tokens": 64,
                "ratios": [0.99, 1.0, 1.01],
                "ratio_p50": 1.0,
                "ratio_interval": {"low": None, "high": None},
            }
        ],
    }
    path = tmp_path / "comparison-qnn-x-elite.json"
    path.write_text(json.dumps(comparison), encoding="utf-8")
    made = report([package], output=tmp_path / "out", evidence=[path])
    found = {
        entry.report.profile.name: sum(item.evidence == "comparison" for item in entry.report.evidence)
        for entry in made.fleet.entries
    }
    assert found == {"qnn-x-elite": 1, "qnn-x-plus": 0}


@pytest.mark.parametrize("inside", [".", "report", "evidence/deep"])
def test_no_report_is_written_into_a_sealed_package(first: Path, inside: str) -> None:
    with pytest.raises(errors.OutputUnwritableError, match="cannot be written"):
        report([first], output=first / inside)
    assert verify_package(first)
