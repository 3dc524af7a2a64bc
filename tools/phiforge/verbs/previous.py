"""The release that a new one is held against: found, checked and judged by the same rules."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.packaging.layout import MANIFEST, load_manifest
from phiforge.packaging.verify import read_sums, verify_package
from phiforge.packaging.write import content_hash
from phiforge.release.destinations import held, open_release
from phiforge.release.destinations.existing import package_folder
from phiforge.release.layout import EVIDENCE, Previous
from phiforge.release.signing import Trust
from phiforge.verbs.standing import judge_package
from phiforge.verbs.verify import check_release, unsigned_package

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from phiforge.release.signing import State
    from phiforge.verbs.standing import Judged


@dataclass(frozen=True, kw_only=True)
class Predecessor:
    """The previous release while it is open: what is said of it, its package's sums, its profiles as judged today."""

    facts: Previous
    sums: Mapping[str, str]
    profiles: Mapping[str, Judged]


@contextlib.contextmanager
def open_previous(path: Path, model: str, trust: Trust) -> Iterator[Predecessor]:
    """Open a package, or a release on disk in any form, and check it.

    Args:
        path: Where it is.
        model: The model that it must be of.
        trust: Whose signature it must have.

    Raises:
        PreviousReleaseError: It is neither, is of another model, or is not as it was published.
        SignatureInvalidError: The signature is not the expected one.
        OutputLockedError: It was replaced while it was read.
    """
    if (path / MANIFEST).is_file():
        if trust != Trust():
            raise unsigned_package(path)
        with held(path):
            with _told(path):
                facts = _package_facts(path, verify_package(path).seal_sha256)
                found = _judged(path, path, facts, model)
            yield found
        return
    with contextlib.ExitStack() as stack:
        with _told(path):
            folder = stack.enter_context(open_release(path))
            record = check_release(folder, trust, path).release
            assert record is not None
            package = folder / record.package.folder
            if not package.is_dir():
                raise _invalid(path, "It is in a form for one runtime, without the package and its evidence.")
            facts = Previous(
                name=record.name,
                version=record.version,
                content_sha256=record.package.content_sha256,
                seal_sha256=record.package.seal_sha256,
                signature=_signature(record.signature, trust),
            )
            brought = [folder / EVIDENCE / name for name in sorted(record.evidence)]
            found = _judged(path, package, facts, model, brought)
        yield found


@contextlib.contextmanager
def open_earlier_package(path: Path, model: str) -> Iterator[Path]:
    """Yield the package at a path, or the one in the release there, in any form; what is in it is not checked.

    Args:
        path: A package, or a release on disk.
        model: The model that it must be of.

    Raises:
        PreviousReleaseError: There is none, or it is of another model.
        OutputLockedError: It was replaced while it was read.
    """
    with contextlib.ExitStack() as stack:
        with _told(path):
            if (path / MANIFEST).is_file():
                stack.enter_context(held(path))
                package = path
            else:
                package = package_folder(stack.enter_context(open_release(path)))
            _check_model(path, load_manifest(package).package_name, model)
        yield package


def _signature(form: str, trust: Trust) -> State:
    if form == "none":
        return "none"
    return "not checked" if trust.key is None and trust.identity is None else "verified"


def _package_facts(package: Path, seal_sha256: str) -> Previous:
    manifest = load_manifest(package)
    sums = read_sums(package)
    return Previous(
        name=manifest.package_name,
        version=content_hash(sums)[:12],
        content_sha256=content_hash(sums),
        seal_sha256=seal_sha256,
        signature="none",
    )


def _judged(path: Path, package: Path, facts: Previous, model: str, brought: Sequence[Path] = ()) -> Predecessor:
    _check_model(path, facts.name, model)
    return Predecessor(facts=facts, sums=read_sums(package), profiles=judge_package(package, brought))


def _check_model(path: Path, found: str, model: str) -> None:
    if found != model:
        raise _invalid(path, f"It is of {found}, and what is held against it is {model}.")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say of whatever is wrong with it that it is the previous release's."""
    try:
        yield
    except (
        errors.PackageInvalidError,
        errors.PackageTamperedError,
        errors.UnsafePathError,
        errors.EvidenceInvalidError,
        errors.ProfileInvalidError,
        errors.VariantUnusableError,
    ) as error:
        raise _invalid(path, f"{error.what} {error.why}") from error


def _invalid(path: Path, why: str) -> errors.PreviousReleaseError:
    return errors.PreviousReleaseError(
        f"{path} cannot be the previous release.",
        why=why,
        fix="Give --against a package or a release of the same model as it was published, or --first if there is none.",
    )
