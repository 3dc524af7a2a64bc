"""Releases of the embedded model: published, verified, tampered with, refused because of drift."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from damaged import damage, package_damaged
from judged import unpassed
from phiforge import errors
from phiforge.evidence import dump_evidence, parse_evidence
from phiforge.gate import Outcome
from phiforge.release.numbers import read_numbers
from phiforge.release.regressions import find_regressions
from phiforge.release.signing import Signer, Trust
from phiforge.target import Regression
from phiforge.verbs.build import BuildResult
from phiforge.verbs.release import ReleaseOptions, release
from phiforge.verbs.standing import judge_package
from phiforge.verbs.subject import find_subjects
from phiforge.verbs.validate import run_validation
from phiforge.verbs.verify import verify
from phiforge.verbs.watch import Unwatched
from unit.release.conftest import KeyPair, make_keys
from unit.release.packages import comparison

PROFILE = "cpu-x64"
# A part of each sort of file; tests/unit/release flips bits in every file of a small release.
FLIPPED = (
    "README.md",
    "report.html",
    "sbom.cdx.json",
    "signature.json",
    "SHA256SUMS",
    "phi-4-nano.ortpackage/models/model/cpu-int4/model.onnx.data",
    "phi-4-nano.ortpackage/evidence/cpu-int4/drift.json",
    "phi-4-nano.ortpackage/SHA256SUMS",
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


def test_the_embedded_model_s_release_passes_and_is_refused_once_it_was_touched(
    nano_build: BuildResult, keys: KeyPair, tmp_path: Path
) -> None:
    assert nano_build.package is not None
    verdict = nano_build.verdicts[PROFILE]
    assert unpassed(verdict) == []
    # On a busy machine the times may be long, or vary too much to tell, and everything else passes.
    slow = dict.fromkeys(item.budget for item in verdict.findings if item.outcome is not Outcome.PASS)
    waivers = tuple(f"{PROFILE}/{budget}=the machine of this test is busy" for budget in slow)
    options = ReleaseOptions(
        destinations=(str(tmp_path / "out"),),
        first=True,
        signer=Signer(form="key", key=keys.private),
        waivers=waivers,
    )
    found = release(nano_build.package, options)
    assert found.plan.record.profiles[PROFILE].outcome is verdict.outcome
    trust = Trust(key=keys.public)
    assert verify(tmp_path / "out", trust=trust).signature == "verified"
    for name in FLIPPED:
        path = tmp_path / "out" / name
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        with pytest.raises((errors.PackageTamperedError, errors.SignatureInvalidError)) as caught:
            verify(tmp_path / "out", trust=trust)
        assert name in f"{caught.value.what} {caught.value.why}"
        path.write_bytes(content)
    again = ReleaseOptions(
        destinations=(f"oci:{tmp_path / 'oci'}",),
        against=tmp_path / "out",
        trust=trust,
        signer=Signer(form="key", key=keys.private),
        waivers=waivers,
    )
    record = release(nano_build.package, again).plan.record
    assert record.previous is not None
    assert record.previous.signature == "verified"
    assert verify(tmp_path / "oci", trust=trust).signature == "verified"


def test_one_badly_quantized_layer_is_refused_because_of_drift(
    pruned_build: BuildResult, nano_checkpoint: Path, tmp_path: Path
) -> None:
    old = pruned_build.package
    assert old is not None
    output = old.parent
    (stage,) = (output / "store" / "variant").iterdir()
    held_out = output.parent
    new = package_damaged(
        stage,
        nano_checkpoint,
        tmp_path,
        texts=held_out / "text.jsonl",
        tasks=held_out / "tasks",
        cache=output / "store" / "reference",
    )
    brought = tmp_path / f"comparison-{PROFILE}.json"
    judged = [judge_package(item)[PROFILE] for item in (new, old)]
    sides, runtime = [item.record.sha256 for item in judged], judged[0].profile.runtime.version
    brought.write_text(dump_evidence(comparison(sides[0], sides[1], 1.0, runtime=runtime)), encoding="utf-8")
    options = ReleaseOptions(destinations=(str(tmp_path / "out"),), against=old, evidence=(brought,))
    with pytest.raises(errors.ReleaseRefusedError) as caught:
        release(new, options)
    assert f"{PROFILE}/regression:kl_mean_nats: Mean KL divergence (measured): " in caught.value.why
    assert "allowed are 10 %" in caught.value.why
    assert not (tmp_path / "out").exists()


def test_the_same_weights_drift_alike_when_they_are_validated_again(
    pruned_build: BuildResult, nano_checkpoint: Path
) -> None:
    """With another number of threads, which sums in another order if any does."""
    assert pruned_build.package is not None
    output = pruned_build.package.parent
    (stage,) = (output / "store" / "variant").iterdir()
    (subject,) = find_subjects(stage)
    found = run_validation(
        subject, nano_checkpoint, texts=output.parent / "text.jsonl", tasks=output.parent / "tasks",
        cache=output / "store" / "reference", threads=1, watcher=Unwatched(),
    )  # fmt: skip
    old = judge_package(pruned_build.package)[PROFILE].standing()
    evidence = [parse_evidence(text, name) for name, text in found.items()]
    size = next(int(item.number.value) for item in old.readings if item.number.metric == "variant_bytes")
    new = replace(old, readings=read_numbers(size, evidence))
    blocks = {item.number.metric: len(item.blocks) for item in old.readings}
    assert blocks["kl_mean_nats"] == blocks["top1_agreement_fraction"] > 9
    judged = {item.budget: item for item in find_regressions(new, old, Regression())}
    drift = ("kl_mean_nats", "kl_p99_nats", "top1_agreement_fraction", "answer_recovery_fraction")
    assert {judged[f"regression:{name}"].outcome for name in drift} == {Outcome.PASS}


def test_the_damage_is_to_one_tensor(pruned_build: BuildResult, tmp_path: Path) -> None:
    assert pruned_build.package is not None
    (stage,) = (pruned_build.package.parent / "store" / "variant").iterdir()
    damaged = damage(stage, tmp_path / "damaged")
    names = [path.name for path in (stage / "model").iterdir()]
    differing = [
        name for name in names if (stage / "model" / name).read_bytes() != (damaged / "model" / name).read_bytes()
    ]
    assert differing == ["model.onnx.data"]
    shutil.rmtree(damaged)
