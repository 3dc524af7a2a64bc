"""Two evidence files of one machine that cannot both be true."""

from __future__ import annotations

from typing import Any

import pytest

from phiforge.contradictions import contradiction
from phiforge.evidence import AnyEvidence, Drift, Estimate, Kind, Probe, Probes
from phiforge.evidence_file import EvidenceSource
from unit.packages import ADAPTER, DEVICE, on_device
from unit.reporting import samples
from unit.test_evidence_checks import free_running


def file(*records: AnyEvidence, **changes: Any) -> EvidenceSource:
    known: dict[str, Any] = {
        "place": "evidence.json",
        "profile": "qnn-x-elite",
        "adapter": ADAPTER,
        "placement": {"QNNExecutionProvider": 85},
        "records": tuple(on_device(record) for record in records),
    }
    return EvidenceSource(**{**known, **changes})


def single(record: AnyEvidence) -> EvidenceSource:
    return EvidenceSource(place="record.json", profile=None, records=(on_device(record),))


def all_of(**changes: Any) -> EvidenceSource:
    return file(samples.drift(), samples.tasks(), probes(), samples.latency(), free_running(), **changes)


def probes(**failed: bool) -> Probes:
    names = ("tokenizer", "chat-template", "stop-ids", "longrope-prefill")
    made = tuple(Probe(name=name, passed=not failed.get(name.replace("-", "_")), detail="-") for name in names)
    return samples.probes().model_copy(update={"probes": made})


def drift(mean: float, error: float = 0.00081, **update: Any) -> Drift:
    return samples.drift().model_copy(update={"kl_nats": Estimate(mean=mean, standard_error=error), **update})


def other_versions(record: AnyEvidence) -> AnyEvidence:
    return changed(record, versions={"onnxruntime": "1.32.0"})


def test_a_file_and_itself_agree() -> None:
    assert contradiction(all_of(), all_of()) is None


def test_times_may_differ() -> None:
    slower = samples.latency().model_copy(update={"load_ms": 9e9})
    assert contradiction(file(samples.latency()), file(slower)) is None


def test_another_placement() -> None:
    said = contradiction(all_of(), all_of(placement={"CPUExecutionProvider": 80, "QNNExecutionProvider": 5}))
    assert said == (
        "nodes ran on QNNExecutionProvider (85) in one and on CPUExecutionProvider (80), QNNExecutionProvider (5) in "
        "the other"
    )


def test_a_single_record_is_held_against_an_evidence_file_and_another_one() -> None:
    near, far = single(drift(0.02)), single(drift(0.9))
    assert contradiction(file(drift(0.02)), near) is None
    for other in (near, file(drift(0.02)), file(drift(0.02), adapter="another device")):
        said = contradiction(other, far)
        assert said is not None
        assert said.startswith("the mean KL on the same texts is 0.02 and 0.9 nats")


@pytest.mark.parametrize("name", ["tokenizer", "chat_template", "stop_ids"])
def test_a_probe_of_ids_that_passes_in_one_alone(name: str) -> None:
    said = contradiction(file(probes()), file(probes(**{name: True})))
    assert said == f"the probe {name.replace('_', '-')} passes in one and fails in the other"


def test_a_probe_with_noise_may_differ() -> None:
    assert contradiction(file(probes()), file(probes(longrope_prefill=True))) is None


@pytest.mark.parametrize(("mean", "told"), [(0.02134 + 0.0055, False), (0.02134 + 0.006, True), (0.01, True)])
def test_a_drift_further_apart_than_its_errors(mean: float, told: bool) -> None:
    """Five times sqrt(2) * 0.00081 is 0.00573."""
    said = contradiction(file(drift(0.02134)), file(drift(mean)))
    assert (said is not None and "mean KL on the same texts" in said) == told


def test_the_same_sums_in_another_order_agree() -> None:
    assert contradiction(file(drift(0.02, 0.0)), file(drift(0.02 * (1 + 1e-9), 0.0))) is None
    assert contradiction(file(drift(0.02, 0.0)), file(drift(0.0201, 0.0))) is not None


def test_another_number_of_right_answers() -> None:
    tasks = samples.tasks()
    better = samples.score("gsm8k", 250, 219, lost=10, gained=7, p=0.6)
    said = contradiction(file(tasks), file(tasks.model_copy(update={"scores": (better, *tasks.scores[1:])})))
    assert said == "variant_correct of the same task gsm8k is 215 in one and 216 in the other"


def changed(record: AnyEvidence, **conditions: Any) -> AnyEvidence:
    return record.model_copy(update={"conditions": record.conditions.model_copy(update=conditions)})


def test_what_differs_for_a_reason_is_no_contradiction() -> None:
    far = drift(0.9)
    elsewhere = DEVICE.model_copy(update={"processor": "another"})
    assert contradiction(file(drift(0.02)), file(far)) is not None
    for other in (
        file(changed(far, dataset_sha256="5" * 64)),
        file(changed(far, samples=3)),
        file(changed(far, threads=3)),
        file(other_versions(far), placement={"QNNExecutionProvider": 1}),
        file(records=(on_device(far, elsewhere),)),
        file(far, adapter="another device"),
        file(drift(0.9, reference_sha256="6" * 64)),
        file(drift(0.9, top_k=64)),
        file(drift(0.9, kind=Kind.SURROGATE)),
    ):
        assert contradiction(file(drift(0.02)), other) is None
