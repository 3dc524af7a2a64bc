"""The evidence file: read again as it was written, and refused in words when it was not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiforge import errors
from phiforge.evidence import AnyEvidence, Kind
from phiforge.evidence_file import (
    EvidenceFile,
    MachineFacts,
    PackageFacts,
    ProfileFacts,
    VariantFacts,
    dump_evidence_file,
    file_name,
    is_evidence_file,
    load_evidence_file,
    machine_id,
    parse_evidence_file,
)
from phiforge.hashing import content_key
from phiforge.verbs.merging import check_names
from unit.packages import ADAPTER, DEVICE, on_device
from unit.reporting import samples


def _file(**changes: Any) -> EvidenceFile:
    known = {
        "phiforge_version": "0.1.0",
        "package": PackageFacts(name="nano", content_sha256="1" * 64),
        "variant": VariantFacts(name="cpu-int4", sha256=samples.VARIANT),
        "profile": ProfileFacts(name="cpu-x64", sha256="3" * 64),
        "machine": MachineFacts(id=machine_id(DEVICE, ADAPTER), adapter=ADAPTER, facts=DEVICE),
        "placement": {"CPUExecutionProvider": 85},
        "records": tuple(
            on_device(item) for item in (samples.drift(), samples.tasks(), samples.probes(), samples.latency())
        ),
    }
    return EvidenceFile(**{**known, **changes})


def _resealed(change: Callable[[dict[str, Any]], object]) -> str:
    """The file after a change by somebody who made the digest anew."""
    content = json.loads(dump_evidence_file(_file()))
    del content["digest"]
    change(content)
    return json.dumps({**content, "digest": content_key(content)})


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text(dump_evidence_file(_file()), encoding="utf-8")
    assert load_evidence_file(path) == _file()
    assert dump_evidence_file(load_evidence_file(path)) == dump_evidence_file(_file())
    assert is_evidence_file(path.read_text(encoding="utf-8"))


def test_a_recovery_of_nothing_survives(tmp_path: Path) -> None:
    """Where the original is right nowhere there is no share to keep; that is no fault of the file."""
    tasks = samples.tasks()
    nothing = samples.score("overall", 750, 0, lost=0, gained=3, p=0.25).model_copy(
        update={"recovery_fraction": math.nan}
    )
    file = _file(records=(on_device(tasks.model_copy(update={"scores": (nothing,), "overall": nothing})),))
    found = parse_evidence_file(dump_evidence_file(file), "e")
    assert math.isnan(found.records[0].overall.recovery_fraction)  # type: ignore[union-attr]


NUMBERS = json.loads(dump_evidence_file(_file()))


def _paths(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _paths(item, (*path, key))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in _paths(item, (*path, index))]
    return [path]


@given(path=st.sampled_from(_paths(NUMBERS)), value=st.sampled_from([0, -1, 1.5, "x", None, True, [], {}]))
def test_any_edit_is_found(path: tuple[str | int, ...], value: object) -> None:
    content = json.loads(dump_evidence_file(_file()))
    place: Any = content
    for step in path[:-1]:
        place = place[step]
    if type(place[path[-1]]) is type(value) and place[path[-1]] == value:
        return
    place[path[-1]] = value
    with pytest.raises(errors.EvidenceInvalidError):
        parse_evidence_file(json.dumps(content), "e")


def test_a_hand_edited_number_is_told_in_words() -> None:
    text = dump_evidence_file(_file()).replace('"load_ms": 2318.4', '"load_ms": 1.0')
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        parse_evidence_file(text, "e")
    assert "was changed after it was written" in caught.value.why


def test_layout_and_order_of_the_json_do_not_matter() -> None:
    content = json.loads(dump_evidence_file(_file()))
    shuffled = dict(reversed(list(content.items())))
    assert parse_evidence_file(json.dumps(shuffled), "e") == _file()


def _row(name: str, value: float) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["records"][3]["rows"][1].update({name: value})


IMPOSSIBLE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a negative time": (_row("ttft_p50_ms", -1.0), "-1.0 for ttft_p50_ms"),
    "a time that is no number": (_row("decode_tokens_per_s_p50", math.nan), "nan for decode_tokens_per_s_p50"),
    "an infinite speed": (_row("prefill_tokens_per_s_p50", math.inf), "inf for prefill_tokens_per_s_p50"),
    "a time beyond all floats below zero": (
        lambda c: c["records"][3].update(peak_rss_bytes=-(10**400)),
        "a number beyond all counts",
    ),
    "a negative load time": (lambda c: c["records"][3].update(load_ms=-0.5), "-0.5 for load_ms"),
    "negative memory": (lambda c: c["records"][3].update(peak_anon_bytes=-1), "-1 for peak_anon_bytes"),
    "a drift below zero": (lambda c: c["records"][0]["kl_nats"].update(mean=-0.1), "-0.1 for kl_nats"),
    "a drift that is no number": (
        lambda c: c["records"][0]["kl_percentiles_nats"].update(p99=math.nan),
        "nan for kl_percentiles_nats.p99",
    ),
    "more than all agree": (
        lambda c: c["records"][0]["top1_agreement_fraction"].update(mean=1.2),
        "1.2 for top1_agreement_fraction",
    ),
    "more right than asked": (
        lambda c: c["records"][1]["overall"].update(variant_correct=10_000),
        "10000 for overall.variant_correct",
    ),
    "another machine's id": (lambda c: c["machine"].update(id="0" * 12), "not 000000000000"),
    "another variant's record": (lambda c: c["records"][2].update(variant_sha256="f" * 64), "of another variant"),
    "another machine's record": (
        lambda c: c["records"][0]["conditions"]["machine"].update(processor="a faster one"),
        "of another machine",
    ),
    "no record": (lambda c: c.update(records=[]), "records"),
    "an unknown key": (lambda c: c.update(surprise=1), "surprise"),
    "an unknown sort": (lambda c: c["records"][0].update(evidence="guess"), "records.0"),
    "no hash": (lambda c: c["package"].update(content_sha256="abc"), "package.content_sha256"),
    "nodes below zero": (lambda c: c.update(placement={"CPUExecutionProvider": -1}), "placement"),
    "a newer schema": (lambda c: c.update(schema_version="2.0"), "'2.0'"),
    "no schema": (lambda c: c.pop("schema_version"), "None"),
}


@pytest.mark.parametrize("fault", IMPOSSIBLE)
def test_what_cannot_be_is_refused_even_with_a_digest_made_anew(fault: str) -> None:
    change, told = IMPOSSIBLE[fault]
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        parse_evidence_file(_resealed(change), "e")
    assert told in caught.value.why


def _refused(record: AnyEvidence) -> str:
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        parse_evidence_file(dump_evidence_file(_file(records=(on_device(record),))), "e")
    return caught.value.why


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("what", ["relative_logit_error", "relative_spread_error", "kl_mean_nats"])
def test_an_agreement_that_cannot_be_is_refused(what: str, value: float) -> None:
    assert f"has {value} for {what}" in _refused(samples.agreement().model_copy(update={what: value}))


def test_an_agreement_of_more_than_all_or_fewer_than_none_is_refused() -> None:
    assert "1.01 for top1_agreement_fraction" in _refused(samples.agreement(top1_agreement_fraction=1.01))
    assert "-1 for positions" in _refused(samples.agreement(positions=-1))


@pytest.mark.parametrize("what", ["positions", "top1_agreement_fraction", "kl_nats"])
def test_a_breakdown_that_cannot_be_is_refused(what: str) -> None:
    known = samples.breakdown()
    first = known.steps[0]
    value: object = first.kl_nats.model_copy(update={"mean": -1}) if what == "kl_nats" else -1
    step = first.model_copy(update={what: value})
    assert f"for weights.{what}" in _refused(known.model_copy(update={"steps": (step, *known.steps[1:])}))


def test_agreement_and_breakdown_are_read_again() -> None:
    known = (samples.agreement(error=None), samples.agreement(relative_spread_error=0.1), samples.breakdown())
    file = _file(records=tuple(on_device(item) for item in known))
    assert parse_evidence_file(dump_evidence_file(file), "e") == file


def test_a_number_beyond_all_floats_is_no_crash() -> None:
    """`math.isfinite` and every product with a float fail on such an int."""
    huge = 10**400
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        parse_evidence_file(_resealed(lambda content: content["records"][3].update(peak_rss_bytes=huge)), "e")
    assert "beyond all counts" in caught.value.why
    with pytest.raises(errors.EvidenceInvalidError):
        parse_evidence_file(_resealed(lambda content: content["machine"]["facts"].update(memory_bytes=huge)), "e")


def test_a_newer_file_asks_for_a_newer_phiforge() -> None:
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        parse_evidence_file(_resealed(lambda content: content.update(schema_version="1.1")), "e")
    assert "newer" in caught.value.fix


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", '{"a": ' * 50_000, '{"digest": "\\ud800", "schema_version": "1.0"}']
)
def test_what_is_no_evidence_at_all_is_refused(text: str) -> None:
    with pytest.raises(errors.EvidenceInvalidError):
        parse_evidence_file(text, "e")
    assert isinstance(is_evidence_file(text), bool)


def test_half_a_character_has_no_digest() -> None:
    text = dump_evidence_file(_file()).replace('"nano"', '"\\ud800"')
    with pytest.raises(errors.EvidenceInvalidError):
        parse_evidence_file(text, "e")


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(b"\xff\xfe")
    for name in ("none.json", "e.json"):
        with pytest.raises(errors.EvidenceInvalidError):
            load_evidence_file(tmp_path / name)


# The machine.


def test_a_machine_has_one_id_and_another_has_another() -> None:
    own = machine_id(DEVICE, ADAPTER)
    changes: dict[str, Any] = {
        "processor": "another",
        "architecture": "x86_64",
        "process_architecture": "x86_64",
        "memory_bytes": 34_000_000_000,
        "system": "Windows 12",
    }
    others = {machine_id(DEVICE.model_copy(update={name: value}), ADAPTER) for name, value in changes.items()}
    assert len({own, *others, machine_id(DEVICE, "GPU (1)"), machine_id(DEVICE, "GPU (2)")}) == len(changes) + 3


def test_what_changes_from_start_to_start_does_not_change_the_id() -> None:
    later = DEVICE.model_copy(update={"memory_bytes": DEVICE.memory_bytes + 8192, "power_source": "battery"})
    assert machine_id(later, ADAPTER) == machine_id(DEVICE, ADAPTER)


def test_parts_before_and_after_a_restart_are_of_one_machine() -> None:
    later = DEVICE.model_copy(update={"memory_bytes": DEVICE.memory_bytes + 8192, "power_source": "battery"})
    file = _file(records=(on_device(samples.drift()), on_device(samples.latency(), later)))
    assert parse_evidence_file(dump_evidence_file(file), "e") == file
    other = DEVICE.model_copy(update={"physical_cores": 4})
    with pytest.raises(errors.EvidenceInvalidError, match="cannot be used"):
        parse_evidence_file(dump_evidence_file(_file(records=(on_device(samples.drift(), other),))), "e")


def test_the_file_is_named_by_package_profile_and_machine() -> None:
    assert file_name(_file()) == f"evidence-nano-cpu-x64-{machine_id(DEVICE, ADAPTER)}.json"


@given(st.text(min_size=1, max_size=200))
def test_its_name_is_one_on_every_system(name: str) -> None:
    found = file_name(_file(package=PackageFacts(name=name, content_sha256="1" * 64)))
    check_names([Path(found)])
    assert len(found) < 150


def test_kinds_stay_what_they_were() -> None:
    file = _file(records=(on_device(samples.drift(Kind.EMULATED)),))
    assert parse_evidence_file(dump_evidence_file(file), "e").records[0].kind is Kind.EMULATED
