"""A release of which one byte is other, one file is gone or new, or the signature is somebody else's, is refused."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phiforge import errors
from phiforge.evidence import dump_evidence, load_evidence
from phiforge.release.layout import load_release
from phiforge.release.prepare import seal
from phiforge.release.signing import Signer, Trust, _canonical
from phiforge.verbs import release as release_verb
from phiforge.verbs.release import ReleaseOptions, release
from phiforge.verbs.verify import verify
from unit.release.conftest import KeyPair, make_keys, plain_report
from unit.release.packages import CPU, NPU, Made, comparison, make_package

REFUSED = (
    errors.PackageTamperedError,
    errors.PackageInvalidError,
    errors.SignatureInvalidError,
    errors.EvidenceInvalidError,
    errors.UnsafePathError,
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(pair: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _release(tmp_path_factory.mktemp("signed"), Signer(form="key", key=pair.private))


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _release(tmp_path_factory.mktemp("unsigned"), Signer(form="none"))


def _release(folder: Path, signer: Signer) -> Path:
    old, new = make_package(folder / "old"), make_package(folder / "new", Made(weights=b"other"))
    variant, against = (
        load_evidence(package / "evidence/cpu-int4/drift.json").variant_sha256 for package in (new, old)
    )
    brought = folder / f"comparison-{CPU}.json"
    brought.write_text(dump_evidence(comparison(variant, against, 1.0)), encoding="utf-8")
    options = ReleaseOptions(
        destinations=(str(folder / "out"),),
        against=old,
        evidence=(brought,),
        waivers=(f"{NPU}=no device",),
        signer=signer,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release_verb, "_write_report", plain_report)
        release(new, options)
    return folder / "out"


def refusal(folder: Path, trust: Trust | None = None) -> errors.PhiforgeError:
    with pytest.raises(REFUSED) as caught:
        verify(folder, trust=trust)
    return caught.value


def told(error: errors.PhiforgeError) -> str:
    return f"{error.what} {error.why}"


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def changed(folder: Path, tmp_path: Path, change: Callable[[Path], object]) -> Path:
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    change(copy)
    return copy


def test_a_whole_release_is_accepted(signed: Path, unsigned: Path, pair: KeyPair) -> None:
    assert verify(signed, trust=Trust(key=pair.public)).signature == "verified"
    assert verify(signed).signature == "not checked"
    assert verify(unsigned).signature == "none"
    assert verify(unsigned / "nano.ortpackage").signature is None


@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_refused_with_the_file_named(
    signed: Path, pair: KeyPair, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(files_of(signed)))
    path = signed / name
    content = path.read_bytes()
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    path.write_bytes(bytes(flipped))
    try:
        assert name in told(refusal(signed, Trust(key=pair.public)))
        if name != "signature.json":
            assert name in told(refusal(signed))
    finally:
        path.write_bytes(content)


@settings(max_examples=40)
@given(data=st.data())
def test_without_a_signature_too(unsigned: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(files_of(unsigned)))
    path = unsigned / name
    content = path.read_bytes()
    place = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    path.write_bytes(bytes(flipped))
    try:
        assert name in told(refusal(unsigned))
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("old", "new"), [('\n "', '\n\t"'), ('"keyid"', '"keyie"'), ('"keyid": ""', '"keyid": "x"'), ("=", "")]
)
def test_bits_of_the_signature_that_say_nothing_are_not_to_be_changed_either(
    signed: Path, pair: KeyPair, tmp_path: Path, old: str, new: str
) -> None:
    def edit(copy: Path) -> None:
        text = (copy / "signature.json").read_text(encoding="utf-8")
        assert old in text
        (copy / "signature.json").write_text(text.replace(old, new, 1), encoding="utf-8", newline="\n")

    error = refusal(changed(signed, tmp_path, edit), Trust(key=pair.public))
    assert isinstance(error, errors.SignatureInvalidError)
    assert "signature.json" in error.what


def test_spare_bits_of_base64_are_not_to_be_changed_either(signed: Path, pair: KeyPair, tmp_path: Path) -> None:
    def edit(copy: Path) -> None:
        bundle = json.loads((copy / "signature.json").read_text(encoding="utf-8"))
        item = bundle["dsseEnvelope"]["signatures"][0]
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/":
            stem = item["sig"].rstrip("=")
            other = stem[:-1] + letter + "=" * (len(item["sig"]) - len(stem))
            if other != item["sig"] and base64.b64decode(other) == base64.b64decode(item["sig"]):
                item["sig"] = other
                break
        (copy / "signature.json").write_text(_canonical(bundle), encoding="utf-8", newline="\n")

    if not _spare_bits(signed):
        return  # a signature whose length is a multiple of three has none
    assert isinstance(refusal(changed(signed, tmp_path, edit), Trust(key=pair.public)), errors.SignatureInvalidError)


def _spare_bits(folder: Path) -> bool:
    bundle = json.loads((folder / "signature.json").read_text(encoding="utf-8"))
    return str(bundle["dsseEnvelope"]["signatures"][0]["sig"]).endswith("=")


@pytest.mark.parametrize("place", [3, 70])
@pytest.mark.parametrize("sums", ["SHA256SUMS", "nano.ortpackage/SHA256SUMS"])
def test_a_damaged_line_of_the_sums_is_told_from_a_damaged_file(
    unsigned: Path, tmp_path: Path, sums: str, place: int
) -> None:
    def edit(copy: Path) -> None:
        text = (copy / sums).read_text(encoding="utf-8")
        letter = "0" if text[place] != "0" else "1"
        (copy / sums).write_text(text[:place] + letter + text[place + 1 :], encoding="utf-8", newline="\n")

    error = refusal(changed(unsigned, tmp_path, edit))
    assert f"{sums}" in error.why
    assert error.why.startswith(("changed: SHA256SUMS, in the line of", "added: ", f"changed: {sums}"))


def test_every_file_that_is_removed_is_named(signed: Path, pair: KeyPair) -> None:
    for name in files_of(signed):
        path = signed / name
        content = path.read_bytes()
        path.unlink()
        try:
            assert name in told(refusal(signed, Trust(key=pair.public)))
            if name != "signature.json":
                assert name in told(refusal(signed))
        finally:
            path.write_bytes(content)


@pytest.mark.parametrize("name", ["x", "nano.ortpackage/models/model/cpu-int4/x.onnx", "evidence/x.json", ".hidden"])
def test_an_added_file_is_named(signed: Path, unsigned: Path, tmp_path: Path, name: str) -> None:
    for folder in (signed, unsigned):
        copy = changed(folder, tmp_path, lambda copy: (copy / name).write_text("x", encoding="utf-8"))
        assert f"added: {name}" in told(refusal(copy))


def test_a_link_is_not_the_file_it_points_to(unsigned: Path, tmp_path: Path) -> None:
    def link(copy: Path) -> None:
        (copy / "README.md").rename(tmp_path / "elsewhere")
        (copy / "README.md").symlink_to(tmp_path / "elsewhere")

    assert "changed: README.md" in told(refusal(changed(unsigned, tmp_path, link)))


def test_signed_again_with_another_key_is_refused(signed: Path, pair: KeyPair, tmp_path: Path) -> None:
    other = make_keys(tmp_path, "other")
    copy = changed(signed, tmp_path, lambda copy: seal(copy, Signer(form="key", key=other.private)))
    error = refusal(copy, Trust(key=pair.public))
    assert isinstance(error, errors.SignatureInvalidError)
    assert "signature.json" in error.what
    assert verify(copy, trust=Trust(key=other.public)).signature == "verified"


@pytest.mark.parametrize("content", [None, b"", b"no key", b"\xff"])
def test_a_key_that_is_none_is_not_blamed_on_the_signature(signed: Path, tmp_path: Path, content: bytes | None) -> None:
    key = tmp_path / "key.pem"
    if content is not None:
        key.write_bytes(content)
    error = refusal(signed, Trust(key=key))
    assert isinstance(error, errors.SignatureInvalidError)
    assert "key.pem" in error.what and "signature.json" not in error.what


def test_a_signature_that_was_taken_away_or_put_there_is_missed(
    signed: Path, unsigned: Path, pair: KeyPair, tmp_path: Path
) -> None:
    without = changed(signed, tmp_path, lambda copy: (copy / "signature.json").unlink())
    assert isinstance(refusal(without), errors.SignatureInvalidError)
    assert isinstance(refusal(unsigned, Trust(key=pair.public)), errors.SignatureInvalidError)
    put = changed(unsigned, tmp_path, lambda copy: seal(copy, Signer(form="key", key=pair.private)))
    assert isinstance(refusal(put), errors.SignatureInvalidError)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("release.json", '"version": "', '"version": "9', None),
        ("release.json", '"name": "nano"', '"name": "mini"', "release.json is of another package"),
        ("provenance.intoto.json", "in-toto.io/Statement/v1", "in-toto.io/Statement/v2", "provenance.intoto.json"),
        ("sbom.cdx.json", "cpu-int4/model.onnx.data", "cpu-int4/model.onnx.dato", "sbom.cdx.json"),
        (f"evidence/comparison-{CPU}.json", '"rounds": 9', '"rounds": 8', f"evidence/comparison-{CPU}.json"),
        ("nano.ortpackage/evidence/cpu-int4/drift.json", '"top_k": 64', '"top_k": 65', "drift.json"),
        ("nano.ortpackage/evidence/cpu-int4/drift.json", '"drift"', '"drift', "drift.json"),
    ],
)
def test_parts_that_do_not_agree_are_found_even_if_all_is_sealed_again(
    unsigned: Path, tmp_path: Path, name: str, old: str, new: str, said: str | None
) -> None:
    def edit(copy: Path) -> None:
        text = (copy / name).read_text(encoding="utf-8")
        assert old in text
        (copy / name).write_text(text.replace(old, new), encoding="utf-8", newline="\n")
        seal(copy, Signer(form="none"))

    copy = changed(unsigned, tmp_path, edit)
    if said is None:  # nothing else tells the version
        assert load_release(copy).version.startswith("9")
        return
    assert said in told(refusal(copy))


def test_provenance_of_other_files_is_found(unsigned: Path, tmp_path: Path) -> None:
    def edit(copy: Path) -> None:
        path = copy / "provenance.intoto.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["subject"].pop()
        path.write_text(json.dumps(content), encoding="utf-8")
        seal(copy, Signer(form="none"))

    assert "It is of other files: nano.ortpackage/" in told(refusal(changed(unsigned, tmp_path, edit)))


def test_evidence_of_another_variant_in_a_package_is_found(tmp_path: Path) -> None:
    package = make_package(tmp_path / "p")
    folder = package / "evidence"
    for name in ("drift.json", "tasks.json"):
        shutil.copyfile(folder / "cpu-int4" / name, folder / "qnn-a16w4" / name)
    assert verify_fails_by_seal(package)
    other = make_package(tmp_path / "q", Made(weights=b"other"))
    shutil.copyfile(other / "evidence/cpu-int4/drift.json", folder / "cpu-int4/drift.json")
    shutil.copyfile(folder / "cpu-int4/tasks.json", folder / "qnn-a16w4/tasks.json")
    reseal(package)
    error = refusal(package)
    assert isinstance(error, errors.EvidenceInvalidError)
    assert "evidence/cpu-int4/drift.json" in error.what


def verify_fails_by_seal(package: Path) -> bool:
    return isinstance(refusal(package), errors.PackageTamperedError)


def reseal(package: Path) -> None:
    from phiforge.hashing import hash_files

    sums = {path: digest for path, digest in hash_files(package).items() if path != "SHA256SUMS"}
    text = "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items()))
    (package / "SHA256SUMS").write_text(text, encoding="utf-8")


def test_a_package_has_no_signature_to_check(pair: KeyPair, tmp_path: Path) -> None:
    error = refusal(make_package(tmp_path / "p"), Trust(key=pair.public))
    assert isinstance(error, errors.SignatureInvalidError)


def test_what_is_neither_is_said_to_be_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(errors.PackageInvalidError, match="neither a package nor a release"):
            verify(path)


@pytest.mark.parametrize("name", ["README.md", "SHA256SUMS", "nano.ortpackage/models/model/cpu-int4/model.onnx.data"])
def test_a_lost_file_is_no_fault_of_the_signature(signed: Path, pair: KeyPair, tmp_path: Path, name: str) -> None:
    error = refusal(changed(signed, tmp_path, lambda copy: (copy / name).unlink()), Trust(key=pair.public))
    assert isinstance(error, errors.PackageTamperedError)
    assert f"missing: {name}" in error.why


def test_a_link_in_a_signed_release_is_named(signed: Path, pair: KeyPair, tmp_path: Path) -> None:
    def link(copy: Path) -> None:
        (copy / "README.md").rename(tmp_path / "moved")
        (copy / "README.md").symlink_to(tmp_path / "moved")

    error = refusal(changed(signed, tmp_path, link), Trust(key=pair.public))
    assert isinstance(error, errors.PackageTamperedError)
    assert "changed: README.md" in error.why


def test_a_file_that_may_not_be_read_is_named(signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("phiforge.packaging.verify.hash_file", denied)
    assert "unreadable: LICENSE (Permission denied)" in refusal(signed / "nano.ortpackage").why
    monkeypatch.setattr("phiforge.hashing.hash_file", denied)
    assert "unreadable: " in refusal(signed).why
