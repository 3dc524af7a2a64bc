"""Keys, a machine of no test profile so that nothing is measured, and a report that takes no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from phiforge.verbs import checking
from phiforge.verbs import release as release_verb
from unit.release.packages import MACHINE

real_report = release_verb._write_report


def plain_report(package: Path, evidence: Sequence[Path]) -> None:
    """Write files in the place of a report's."""
    for name in ("report.html", "report.md", "report.json"):
        (package.parent / name).write_text(f"{len(evidence)}\n", encoding="utf-8")


@dataclass(frozen=True)
class KeyPair:
    """A private key and its public one, as files."""

    private: Path
    public: Path


def make_keys(folder: Path, name: str = "key") -> KeyPair:
    """Make a pair of keys on P-256."""
    key = ec.generate_private_key(ec.SECP256R1())
    pair = KeyPair(folder / f"{name}.pem", folder / f"{name}.pub.pem")
    pair.private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    pair.public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pair


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return make_keys(tmp_path)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = MACHINE.model_copy(update={"process_architecture": "riscv64"})
    monkeypatch.setattr(checking, "describe_machine", lambda: machine)
    monkeypatch.setattr(release_verb, "_write_report", plain_report)
