"""How pieces of evidence are told apart."""

from __future__ import annotations

from phiforge.evidence import Drift, Kind
from phiforge.reporting.names import evidence_names, labels, named
from unit.reporting import samples


def test_the_first_of_a_sort_has_the_plain_name() -> None:
    assert evidence_names(samples.npu_evidence()) == (
        "drift",
        "drift-emulated",
        "tasks",
        "probes",
        "agreement-prefill",
        "agreement-decode",
        "agreement-other-variant",
        "breakdown",
    )


def test_names_differ_even_for_equal_evidence() -> None:
    twice = (*samples.npu_evidence(), *samples.npu_evidence(), samples.drift(Kind.EMULATED))
    names = evidence_names(twice)
    assert len(set(names)) == len(twice)
    assert {"agreement-prefill-2", "drift-emulated-2", "drift-emulated-3"} <= set(names)


def test_labels_add_what_the_sort_alone_leaves_open() -> None:
    assert labels((samples.drift(), samples.agreement())) == ("drift", "agreement (prefill)")
    assert labels(samples.npu_evidence())[:3] == ("drift (surrogate)", "drift (emulated)", "tasks")


def test_titles_of_one_sort_differ_by_kind() -> None:
    assert [added for _, added, _ in named(Drift, samples.npu_evidence())] == [" on the surrogate", " on the emulator"]
    assert [added for _, added, _ in named(Drift, (samples.drift(),))] == [""]
