from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phiforge import errors
from phiforge.evidence import Comparison, dump_evidence
from phiforge.hashing import hash_files
from phiforge.packaging.verify import read_sums
from phiforge.packaging.write import content_hash
from phiforge.release.layout import load_release
from phiforge.release.signing import Signer, Trust
from phiforge.verbs import checking
from phiforge.verbs import release as release_verb
from phiforge.verbs.previous import open_earlier_package
from phiforge.verbs.release import Released, ReleaseOptions, ReleasePlan, release
from phiforge.verbs.standing import judge_package
from phiforge.verbs.verify import verify
from unit.release.conftest import KeyPair, real_report
from unit.release.packages import CPU, MACHINE, NPU, Made, comparison, make_package

NO_DEVICE = f"{NPU}=no such device yet"


def released(package: Path, to: Path, **options: Any) -> Released:
    given = {"first": "against" not in options, "waivers": (NO_DEVICE,), **options}
    return release(package, ReleaseOptions(destinations=(str(to),), **given))


def refused(package: Path, to: Path, **options: Any) -> str:
    with pytest.raises(errors.ReleaseRefusedError) as caught:
        released(package, to, **options)
    assert not to.exists()
    return caught.value.why


def variant_of(package: Path) -> str:
    return judge_package(package)[CPU].record.sha256


def compared(folder: Path, new: Path, old: Path, ratio: float) -> Path:
    path = folder / f"comparison-{CPU}.json"
    path.write_text(dump_evidence(comparison(variant_of(new), variant_of(old), ratio)), encoding="utf-8")
    return path


def test_a_release_has_all_its_parts_and_verifies(
    tmp_path: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_verb, "_write_report", real_report)
    package = make_package(tmp_path / "new")
    found = released(package, tmp_path / "out", signer=Signer(form="key", key=keys.private))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "README.md", "release.json", "CHANGES.md", "changes.json", "report.html", "report.md", "report.json",
        "nano.ortpackage", "sbom.cdx.json", "provenance.intoto.json", "SHA256SUMS", "signature.json",
    }  # fmt: skip
    inside = hash_files(tmp_path / "out" / "nano.ortpackage")
    assert inside == hash_files(package)
    assert verify(tmp_path / "out", trust=Trust(key=keys.public)).signature == "verified"
    record = load_release(tmp_path / "out")
    assert record == found.plan.record
    assert record.version == content_hash(read_sums(package))[:12]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("form", ["folder", "hf", "oci"])
def test_the_package_in_a_release_of_any_form_can_be_compared_with(tmp_path: Path, form: str) -> None:
    package = make_package(tmp_path / "new")
    found = ReleaseOptions(destinations=(f"{form}:{tmp_path / 'out'}",), first=True, waivers=(NO_DEVICE,))
    release(package, found)
    with open_earlier_package(tmp_path / "out", "nano") as earlier:
        assert hash_files(earlier) == hash_files(package)


def test_the_same_inputs_give_the_same_files(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    for name in ("a", "b"):
        released(package, tmp_path / name)
    assert hash_files(tmp_path / "a") == hash_files(tmp_path / "b")


def test_every_reason_is_told_at_once_with_profile_check_number_and_limit(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new", Made(kl=0.6, licence="mine", source=None, tools={}))
    plans: list[ReleasePlan] = []
    options = ReleaseOptions(destinations=(str(tmp_path / "out"),), first=True)
    with pytest.raises(errors.ReleaseRefusedError) as caught:
        release(package, options, on_plan=plans.append)
    why = caught.value.why
    assert f"{CPU}/kl_mean_nats_max: Mean KL divergence is 0.6 nats, over the maximum of 0.5 nats" in why
    assert f"{NPU}/ttft_p50_ms_max: Time to first token (p50) is not known" in why
    assert f"{CPU}/licence:sums: " in why
    assert "recipe: build/cpu-int4: the versions of phiforge-code" in why
    assert "licence: LICENSE is not word for word one of" in why
    (plan,) = plans
    assert why == "; ".join(reason.rstrip(".") for reason in plan.reasons) + "."
    assert not (tmp_path / "out").exists()


def test_a_waiver_is_printed_with_its_reason_and_as_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script> | [x](http://y) `z`"
    released(make_package(tmp_path / "new"), tmp_path / "out", waivers=(f"{NPU}={hostile}",))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "## Waived" in card
    assert f"- {NPU}: ttft\\_p50\\_ms\\_max did not pass and may go out. Reason given: &lt;script&gt;alert(1)" in card
    assert "<script" not in card
    assert "[x]" not in card
    waiver = load_release(tmp_path / "out").waivers[0]
    assert (waiver.reason, waiver.checks) == (hostile, ("ttft_p50_ms_max",))


def test_only_required_profiles_must_pass(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    assert NPU in refused(package, tmp_path / "out", waivers=())
    released(package, tmp_path / "out", waivers=(), require=(CPU,))
    assert not load_release(tmp_path / "out").profiles[NPU].required
    with pytest.raises(errors.ProfileUnknownError):
        released(package, tmp_path / "other", require=("gpu",))


@pytest.mark.parametrize("form", ["package", "release"])
def test_the_same_package_again_is_accepted(tmp_path: Path, form: str) -> None:
    old = make_package(tmp_path / "old")
    if form == "release":
        released(old, tmp_path / "before")
        old = tmp_path / "before"
    released(make_package(tmp_path / "new"), tmp_path / "out", against=old)
    record = load_release(tmp_path / "out")
    assert record.previous is not None
    assert (record.previous.name, record.previous.signature) == ("nano", "none")
    assert {str(item.outcome) for item in record.profiles[CPU].checks} == {"pass"}


def test_drift_beyond_the_allowed_is_refused_by_the_metric_s_name(tmp_path: Path) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"worse", kl=0.02))
    brought = compared(tmp_path, new, old, 1.0)
    why = refused(new, tmp_path / "out", against=old, evidence=(brought,))
    said = "Mean KL divergence (measured): 0.01 nats before, 0.02 nats now: 100 % worse (91.7 to 108 %, "
    said += "paired over 100 blocks of text), allowed are 10 %"
    assert f"{CPU}/regression:kl_mean_nats: {said}" in why
    assert f"{NPU}/regression:kl_mean_nats" in why
    waivers = (NO_DEVICE, *(f"{name}/regression:kl_mean_nats=better answers" for name in (CPU, NPU)))
    released(new, tmp_path / "out", against=old, evidence=(brought,), waivers=waivers)
    assert (tmp_path / "out" / "evidence" / brought.name).read_bytes() == brought.read_bytes()
    changes = json.loads((tmp_path / "out" / "changes.json").read_text(encoding="utf-8"))
    (kl,) = [item for item in changes["numbers"] if (item["profile"], item["metric"]) == (CPU, "kl_mean_nats")]
    assert (kl["before"], kl["after"], kl["outcome"]) == (0.01, 0.02, "fail")
    assert "models/model/cpu-int4/model.onnx.data" in [item["path"] for item in changes["files"]]


@pytest.mark.parametrize(("ratio", "accepted"), [(1.0, True), (1.3, False)])
def test_time_is_judged_by_the_comparison_that_was_brought(tmp_path: Path, ratio: float, accepted: bool) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"other", ttft_ms=99.0))
    brought = compared(tmp_path, new, old, ratio)
    if accepted:
        released(new, tmp_path / "out", against=old, evidence=(brought,))
    else:
        assert f"{CPU}/regression:decode_tokens_per_s" in refused(
            new, tmp_path / "out", against=old, evidence=(brought,)
        )


def test_a_comparison_by_a_machine_of_another_architecture_is_refused(tmp_path: Path) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"other", ttft_ms=99.0))
    arm = MACHINE.model_copy(update={"architecture": "arm64", "process_architecture": "arm64"})
    held = comparison(variant_of(new), variant_of(old), 1.0)
    held = held.model_copy(update={"conditions": held.conditions.model_copy(update={"machine": arm})})
    brought = tmp_path / f"comparison-{CPU}.json"
    brought.write_text(dump_evidence(held), encoding="utf-8")
    with pytest.raises(errors.EvidenceInvalidError, match="was not measured as the profile cpu-test says") as caught:
        released(new, tmp_path / "out", against=old, evidence=(brought,))
    assert "process was arm64, and the profile is of x86_64" in caught.value.why


def test_on_a_machine_of_the_profile_s_kind_the_comparison_is_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"other"))
    asked: list[tuple[Path, Path, float]] = []

    def compare_folders(
        one: Path, other: Path, *, new_sha256: str, old_sha256: str, allowed_fraction: float, **_: object
    ) -> Comparison:
        asked.append((one, other, allowed_fraction))
        return comparison(new_sha256, old_sha256, 1.01)

    made = SimpleNamespace(compare_folders=compare_folders)
    monkeypatch.setitem(sys.modules, "phiforge.validation.comparison", made)
    monkeypatch.setattr(checking, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(checking, "tool_versions", lambda names: {"onnxruntime-genai": "1.0"})
    released(new, tmp_path / "out", against=old)
    folders = [package / "models/model/cpu-int4" for package in (new, old)]
    assert asked == [(*folders, 0.10)]
    name = f"comparison-{CPU}.json"
    assert list(load_release(tmp_path / "out").evidence) == [name]
    assert verify(tmp_path / "out").release is not None
    # A later release is held against it with all its evidence.
    released(new, tmp_path / "next", against=tmp_path / "out")


@pytest.mark.parametrize(
    ("runtime", "installed", "said"),
    [
        ("1.0", "3.0", "onnxruntime-genai 1.0 is not what is installed here; run `phiforge compare` where it is"),
        ("2.0", "2.0", "the runtimes differ (onnxruntime-genai 1.0 then, onnxruntime-genai 2.0 now)"),
    ],
)
def test_nothing_is_compared_by_a_runtime_that_is_not_both_releases_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, installed: str, said: str
) -> None:
    def compare_folders(*_: object, **__: object) -> Comparison:
        raise AssertionError("both would run by what is installed here")

    monkeypatch.setitem(sys.modules, "phiforge.validation.comparison", SimpleNamespace(compare_folders=compare_folders))
    monkeypatch.setattr(checking, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(checking, "tool_versions", lambda names: {"onnxruntime-genai": installed})
    old = make_package(tmp_path / "old")
    other = MACHINE.model_copy(update={"processor": "another"})
    new = make_package(tmp_path / "new", Made(weights=b"x", runtime=runtime, machine=other))
    why = refused(new, tmp_path / "out", against=old)
    assert f"{CPU}/regression:ttft_ms" in why
    assert said in why


def test_a_comparison_by_another_runtime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(checking, "tool_versions", lambda names: {"onnxruntime-genai": "1.0"})
    other = MACHINE.model_copy(update={"processor": "another"})
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"x", machine=other))
    brought = tmp_path / f"comparison-{CPU}.json"
    held = comparison(variant_of(new), variant_of(old), 1.0, runtime="9.0")
    brought.write_text(dump_evidence(held), encoding="utf-8")
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        released(new, tmp_path / "out", against=old, evidence=(brought,))
    assert "by onnxruntime-genai 9.0, and the profile runs by onnxruntime-genai 1.0" in caught.value.why


def test_a_comparison_that_does_not_count_is_named_and_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two wheels of the runtime were there, so that nobody knows by which of them it was made."""
    monkeypatch.setattr(checking, "describe_machine", lambda: MACHINE)
    other = MACHINE.model_copy(update={"processor": "another"})
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"x", machine=other))
    made = comparison(variant_of(new), variant_of(old), 1.0)
    versions = {**made.conditions.versions, "onnxruntime-genai-winml": "9.0"}
    held = made.model_copy(update={"conditions": made.conditions.model_copy(update={"versions": versions})})
    brought = tmp_path / f"comparison-{CPU}.json"
    brought.write_text(dump_evidence(held), encoding="utf-8")
    why = refused(new, tmp_path / "out", against=old, evidence=(brought,))
    assert "The comparison of both does not count: it was not made by onnxruntime-genai 1.0" in why


def test_of_two_records_the_one_that_was_judged_is_shown_everywhere(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    drift = package / "evidence/cpu-int4/drift.json"
    worse = json.loads(drift.read_text(encoding="utf-8"))
    worse["kl_nats"]["mean"] = 0.4
    worse["block_kl_nats"] = [0.2, 0.6] * 50
    worse["conditions"]["threads"] = 1
    brought = tmp_path / "drift-second.json"
    brought.write_text(json.dumps(worse), encoding="utf-8")
    released(package, tmp_path / "out", evidence=(brought,))
    record = load_release(tmp_path / "out").profiles[CPU]
    (kl,) = [item.value for item in record.numbers if item.metric == "kl_mean_nats"]
    (check,) = [item.value for item in record.checks if item.budget == "kl_mean_nats_max"]
    assert kl == check == 0.4
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert f"| {CPU} | cpu-int4 | pass | " in card
    assert "0.4 nats (measured)" in card
    assert "0.01 nats (measured)" not in card


def test_a_machine_of_another_kind_says_so(tmp_path: Path) -> None:
    other = MACHINE.model_copy(update={"processor": "another"})
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"x", machine=other))
    why = refused(new, tmp_path / "out", against=old)
    assert f"This machine is none of {CPU}; run `phiforge compare` on one" in why
    released(new, tmp_path / "out", against=old, waivers=(NO_DEVICE, f"{CPU}=no machine here"))


def test_a_profile_that_is_gone_must_be_waived(tmp_path: Path) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(npu=False))
    assert f"{NPU}/profile-kept" in refused(new, tmp_path / "out", against=old, waivers=())
    released(new, tmp_path / "out", against=old)
    assert json.loads((tmp_path / "out/changes.json").read_text(encoding="utf-8"))["profiles_removed"] == [NPU]


def test_a_profile_that_is_gone_must_be_waived_also_where_others_are_required(tmp_path: Path) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(npu=False))
    why = refused(new, tmp_path / "out", against=old, waivers=(), require=(CPU,))
    assert why == f"{NPU}/profile-kept: The previous release is for {NPU}, and this package is not."
    released(new, tmp_path / "out", against=old, waivers=(f"{NPU}=sold no more",), require=(CPU,))
    (waiver,) = load_release(tmp_path / "out").waivers
    assert (waiver.profile, waiver.checks) == (NPU, ("profile-kept",))


def test_a_profile_that_is_not_required_may_not_fail(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new", Made(kl=0.6))
    name = f"{NPU}/kl_mean_nats_max"
    waivers = (f"{CPU}/kl_mean_nats_max=known",)
    why = refused(package, tmp_path / "out", require=(CPU,), waivers=waivers)
    assert name in why
    assert "ttft" not in why
    with pytest.raises(errors.WaiverInvalidError, match="waives nothing"):
        released(package, tmp_path / "out", require=(CPU,), waivers=(*waivers, NO_DEVICE))
    released(package, tmp_path / "out", require=(CPU,), waivers=(*waivers, f"{name}=known too"))
    record = load_release(tmp_path / "out")
    assert not record.profiles[NPU].required
    assert {(item.profile, item.check) for item in record.waivers} == {
        (profile, "kl_mean_nats_max") for profile in (CPU, NPU)
    }


def test_a_profile_that_is_not_required_may_not_get_worse(tmp_path: Path) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"worse", kl=0.02))
    brought = compared(tmp_path, new, old, 1.0)
    waivers = (f"{CPU}/regression:kl_mean_nats=better answers",)
    why = refused(new, tmp_path / "out", against=old, evidence=(brought,), require=(CPU,), waivers=waivers)
    assert f"{NPU}/regression:kl_mean_nats" in why


def test_one_that_is_not_required_and_unverified_is_said_to_be_so(tmp_path: Path) -> None:
    released(make_package(tmp_path / "new"), tmp_path / "out", waivers=(), require=(CPU,))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "unverified, not required" in card


def test_a_previous_release_of_another_model_is_refused(tmp_path: Path) -> None:
    old = make_package(tmp_path / "old", Made(model="other"))
    with pytest.raises(errors.PreviousReleaseError) as caught:
        released(make_package(tmp_path / "new"), tmp_path / "out", against=old)
    assert caught.value.why == "It is of other, and what is held against it is nano."


def test_a_previous_release_must_be_as_it_was_published(tmp_path: Path) -> None:
    released(make_package(tmp_path / "old"), tmp_path / "before")
    (tmp_path / "before" / "README.md").write_text("better", encoding="utf-8")
    with pytest.raises(errors.PreviousReleaseError) as caught:
        released(make_package(tmp_path / "new"), tmp_path / "out", against=tmp_path / "before")
    assert "changed: README.md" in caught.value.why
    with pytest.raises(errors.PreviousReleaseError):
        released(make_package(tmp_path / "again"), tmp_path / "out", against=tmp_path / "nowhere")


def test_the_previous_signature_is_checked_where_a_key_is_given(tmp_path: Path, keys: KeyPair) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new")
    released(old, tmp_path / "before", signer=Signer(form="key", key=keys.private))
    for trust, state in ((Trust(key=keys.public), "verified"), (Trust(), "not checked")):
        found = released(new, tmp_path / "out", against=tmp_path / "before", trust=trust)
        assert found.plan.record.previous is not None
        assert found.plan.record.previous.signature == state
    with pytest.raises(errors.SignatureInvalidError):
        released(new, tmp_path / "out", against=old, trust=Trust(key=keys.public, identity="x"))


@pytest.mark.parametrize("options", [{"first": False}, {"first": True, "against": Path("x")}])
def test_it_must_be_clear_what_the_release_is_held_against(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(errors.PreviousReleaseError, match="not clear"):
        released(make_package(tmp_path / "new"), tmp_path / "out", **options)


@pytest.mark.parametrize("version", ["", "../x", "a b", "x" * 65, "-1"])
def test_a_version_that_cannot_stand_in_names_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(errors.DestinationError):
        released(make_package(tmp_path / "new"), tmp_path / "out", version=version)


def test_a_changed_package_is_not_released(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    (package / "models/model/cpu-int4/model.onnx").write_bytes(b"other")
    with pytest.raises(errors.PackageTamperedError):
        released(package, tmp_path / "out")


def test_a_key_that_cannot_sign_is_found_before_any_work(tmp_path: Path) -> None:
    for name, content in (("none.pem", None), ("text.pem", "no key")):
        path = tmp_path / name
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(errors.SignatureInvalidError, match="cannot sign"):
            released(tmp_path / "no package", tmp_path / "out", signer=Signer(form="key", key=path))


def test_nobody_vouches_for_a_keyless_signature_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "CI", "CIRCLECI", "GITLAB_CI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.SignatureInvalidError, match="nobody vouches"):
        released(tmp_path / "no package", tmp_path / "out", signer=Signer(form="keyless"))


def test_a_dry_run_shows_what_would_go_and_writes_nothing(tmp_path: Path) -> None:
    package = make_package(tmp_path / "new")
    found = released(package, tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"new"}
    shown = {file.name: file.sha256 for file in found.published[0].files}
    released(package, tmp_path / "out")
    assert shown == hash_files(tmp_path / "out")


def test_two_files_of_evidence_of_one_name_are_refused(tmp_path: Path) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new", Made(weights=b"other"))
    paths = []
    for index in (0, 1):
        folder = tmp_path / str(index)
        folder.mkdir()
        paths.append(compared(folder, new, old, 1.0 + index / 100))
    with pytest.raises(errors.EvidenceInvalidError) as caught:
        released(new, tmp_path / "out", against=old, evidence=tuple(paths))
    assert "latency-<profile>-second.json" in caught.value.fix
    renamed = paths[1].rename(paths[1].with_name(f"comparison-{CPU}-second.json"))
    found = released(new, tmp_path / "out", against=old, evidence=(paths[0], renamed))
    assert len(judge_package(new, (paths[0], renamed))[CPU].comparisons) == 2
    assert {path.name for path in (paths[0], renamed)} <= set(found.plan.record.evidence)


@pytest.mark.parametrize("inside", ["new", "old"])
def test_no_destination_is_inside_of_what_is_read(tmp_path: Path, inside: str) -> None:
    old, new = make_package(tmp_path / "old"), make_package(tmp_path / "new")
    source = {"new": new, "old": old}[inside]
    before = hash_files(source)
    with pytest.raises(errors.DestinationError, match="cannot go to"):
        released(new, source / "deep/out", against=old)
    assert hash_files(source) == before


@pytest.mark.parametrize("others", [("{0}",), ("oci:{0}",), ("{0}/deep",), ("{0}/deep", "hf:{0}/deep/er")])
def test_no_destination_is_in_the_way_of_another(tmp_path: Path, others: tuple[str, ...]) -> None:
    places = (str(tmp_path / "out"), *(item.format(tmp_path / "out") for item in others))
    with pytest.raises(errors.DestinationError, match="cannot go to") as caught:
        release(make_package(tmp_path / "new"), ReleaseOptions(destinations=places, first=True, require=(CPU,)))
    assert "in the way of" in caught.value.why
    assert not (tmp_path / "out").exists()


def test_two_tags_of_one_layout_are_two_destinations(tmp_path: Path) -> None:
    places = tuple(f"oci:{tmp_path / 'out'}:{tag}" for tag in ("1.0", "latest"))
    options = ReleaseOptions(destinations=places, first=True, require=(CPU,))
    assert len(release(make_package(tmp_path / "new"), options).published) == 2
