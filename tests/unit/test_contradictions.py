"""Two evidence files of one machine that cannot both be true."""

from __future__ import annotations

from typing import Any

import pytest

from phiforge.contradictions import contradiction
from phiforge.evidence import AnyEvidence, Drift, Estimate, Probe, Probes
from phiforge.evidence_file import EvidenceFile, MachineFacts, PackageFacts, ProfileFacts, VariantFacts, machine_id
from unit.packages import ADAPTER, DEVICE, on_device
from unit.reporting import samples
from unit.test_evidence_checks import free_running


def file(*records: AnyEvidence, **changes: Any) -> EvidenceFile:
    known: dict[str, Any] = {
        "phiforge_version": "0.1.0",
        "package": PackageFacts(name="nano", content_sha256="1" * 64),
        "variant": VariantFacts(name="cpu-int4", sha256=samples.VARIANT),
        "profile": ProfileFacts(name="cpu-x64", sha256="3" * 64),
        "machine": MachineFacts(id=machine_id(DEVICE, ADAPTER), adapter=ADAPTER, facts=DEVICE),
        "placement": {"CPUExecutionProvider": 85},
        "records": tuple(on_device(record) for record in records),
    }
    return EvidenceFile(**{**known, **changes})


def all_of(**changes: Any) -> EvidenceFile:
    return file(samples.drift(), samples.tasks(), probes(), samples.latency(), free_running(), **changes)


def probes(**failed: bool) -> Probes:
    names = ("tokenizer", "chat-template", "stop-ids", "longrope-prefill")
    made = tuple(Probe(name=name, passed=not failed.get(name.replace("-", "_")), detail="-") for name in names)
    return samples.probes().model_copy(update={"probes": made})


def drift(mean: float, error: float = 0.00081, **update: Any) -> Drift:
    return samples.drift().model_copy(update={"kl_nats": Estimate(mean=mean, standard_error=error), **update})


def other_versions(record: AnyEvidence) -> AnyEvidence:
    conditions = record.conditions.model_copy(update={"versions": {"onnxruntime": "1.32.0"}})
    return record.model_copy(update={"conditions": conditions})


def test_a_file_and_itself_agree() -> None:
    assert contradiction(all_of(), all_of()) is None


def test_times_may_differ() -> None:
    slower = samples.latency().model_copy(update={"load_ms": 9e9})
    assert contradiction(file(samples.latency()), file(slower)) is None


def test_another_placement() -> None:
    said = contradiction(all_of(), all_of(placement={"CPUExecutionProvider": 80, "QNNExecutionProvider": 5}))
    assert said == (
        "nodes ran on CPUExecutionProvider (85) in one and on CPUExecutionProvider (80), QNNExecutionProvider (5) in "
        "the other"
    )


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


def test_what_differs_for_a_reason_is_no_contradiction() -> None:
    far = drift(0.9)
    data = far.model_copy(update={"conditions": far.conditions.model_copy(update={"dataset_sha256": "5" * 64})})
    elsewhere = DEVICE.model_copy(update={"processor": "another"})
    machine = MachineFacts(id=machine_id(elsewhere, ADAPTER), adapter=ADAPTER, facts=elsewhere)
    assert contradiction(file(drift(0.02)), file(far)) is not None
    for other in (
        file(data),
        file(other_versions(far), placement={"QNNExecutionProvider": 1}),
        file(far, machine=machine),
        file(far, package=PackageFacts(name="nano", content_sha256="6" * 64)),
        file(far, variant=VariantFacts(name="cpu-int4", sha256="7" * 64)),
        file(far, profile=ProfileFacts(name="cpu-x64", sha256="8" * 64)),
    ):
        assert contradiction(file(drift(0.02)), other) is None
