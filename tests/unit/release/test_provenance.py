"""provenance.intoto.json is what in-toto's Statement v1 and SLSA's provenance v1 require, and verify asks for it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phiforge import errors
from phiforge.hashing import hash_files, hash_listing
from phiforge.release.prepare import seal
from phiforge.release.signing import Signer
from phiforge.variant import load_record
from phiforge.verbs import release as release_verb
from phiforge.verbs.release import ReleaseOptions, release
from phiforge.verbs.verify import verify
from unit.release.conftest import plain_report
from unit.release.packages import TOOLS, make_package

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release_verb, "_write_report", plain_report)
        patch.setattr(release_verb, "_refusing", lambda checked, profile: [])
        release(make_package(folder / "p"), ReleaseOptions(destinations=(str(folder / "out"),), first=True))
    return folder / "out"


def statement_of(folder: Path) -> Any:
    return json.loads((folder / "provenance.intoto.json").read_text(encoding="utf-8"))


def faults_of(statement: Any) -> Iterator[str]:
    """What the specifications require (in-toto: statement.md, resource_descriptor.md, digest_set.md; SLSA: MUSTs)."""
    if statement["_type"] != "https://in-toto.io/Statement/v1" or not URI.fullmatch(statement["predicateType"]):
        yield "types"
    subject, predicate = statement["subject"], statement["predicate"]
    if not subject or len({item["name"] for item in subject}) != len(subject):
        yield "subject"
    for item in subject:
        if not re.fullmatch("[0-9a-f]{64}", item["digest"]["sha256"]):
            yield f"digest of {item['name']}"
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    if not URI.fullmatch(definition["buildType"]) or not URI.fullmatch(details["builder"]["id"]):
        yield "URI"
    if not isinstance(definition["externalParameters"], dict):
        yield "externalParameters"
    for item in definition["resolvedDependencies"]:
        yield from _faults_of_resource(item)


def _faults_of_resource(item: Any) -> Iterator[str]:
    if not any(item.get(key) for key in ("uri", "digest", "content")):
        yield f"{item} has none of uri, digest, content"
    if "uri" in item and not URI.fullmatch(item["uri"]):
        yield f"URI of {item}"
    if not all(re.fullmatch("[0-9a-f]+", digest) for digest in item.get("digest", {}).values()):
        yield f"digest of {item}"


def test_the_statement_is_as_the_specifications_require(released: Path) -> None:
    statement = statement_of(released)
    assert list(faults_of(statement)) == []
    package = released / "nano.ortpackage"
    named = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert named == {f"nano.ortpackage/{name}": digest for name, digest in hash_files(package).items()}


def test_everything_it_was_made_of_is_named_by_uri_or_digest(released: Path) -> None:
    made_of = statement_of(released)["predicate"]["buildDefinition"]["resolvedDependencies"]
    found = {item["name"]: item.get("digest") or item["uri"] for item in made_of}
    record = load_record(released / "nano.ortpackage" / "build" / "cpu-int4")
    assert found[record.checkpoint.name] == {"phiforgeCheckpointHash": record.checkpoint.fingerprint}
    assert found["phiforge-code"] == {"phiforgeCodeHash": TOOLS["phiforge-code"]}
    assert found["calibration.jsonl"] == {"sha256": "c" * 64}
    assert found["olive-ai"] == "pkg:pypi/olive-ai@1.0"


def test_the_hash_of_a_checkpoint_is_as_it_is_described(tmp_path: Path) -> None:
    """SHA-256 of the lines `SHA-256  name`, sorted by name: in-toto's dirHash."""
    import hashlib

    contents = {"b": b"two", "a": b"one"}
    lines = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in sorted(contents))
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    assert hash_listing(digests) == hashlib.sha256(lines.encode()).hexdigest()


def _dependency(number: int, **change: Any) -> Callable[[Any], None]:
    def edit(statement: Any) -> None:
        item = statement["predicate"]["buildDefinition"]["resolvedDependencies"][number]
        item |= change
        for key in [key for key, value in item.items() if value is None]:
            del item[key]

    return edit


def _twice(statement: Any) -> None:
    statement["subject"].append(statement["subject"][0])


def _other_subject(statement: Any) -> None:
    statement["subject"][0]["digest"]["sha256"] = "0" * 64


def _no_subject(statement: Any) -> None:
    statement["subject"] = []


def _no_build_type(statement: Any) -> None:
    del statement["predicate"]["buildDefinition"]["buildType"]


def _other_predicate(statement: Any) -> None:
    statement["predicateType"] = "https://slsa.dev/provenance/v0.2"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (_dependency(0, digest=None), "has neither uri nor digest"),
        (_dependency(0, digest={}), "resolvedDependencies.0.digest"),
        (_dependency(0, digest={"phiforgeCheckpointHash": "none"}), "phiforgeCheckpointHash"),
        (_dependency(-1, uri="no uri"), "uri"),
        (_dependency(0, surplus="x"), "surplus"),
        (_twice, "a file is named twice"),
        (_other_subject, "It is of other files: nano.ortpackage/"),
        (_no_subject, "subject"),
        (_no_build_type, "buildDefinition.buildType"),
        (_other_predicate, "predicateType"),
    ],
)
def test_verify_refuses_a_statement_that_is_none(
    released: Path, tmp_path: Path, edit: Callable[[Any], None], said: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(released, copy)
    statement = statement_of(copy)
    edit(statement)
    (copy / "provenance.intoto.json").write_text(json.dumps(statement), encoding="utf-8")
    seal(copy, Signer(form="none"))
    with pytest.raises(errors.PackageTamperedError, match=re.escape("provenance.intoto.json")) as caught:
        verify(copy)
    assert said in caught.value.why
