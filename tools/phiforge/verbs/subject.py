"""What a verb is pointed at: the variants of a package, one built variant, or any folder the runtime can load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors
from phiforge.hashing import hash_files, hash_listing
from phiforge.machine import describe_machine
from phiforge.packaging.layout import BUILD_FOLDER, MANIFEST, variant_folders
from phiforge.variant import CALIBRATION_FILE, GENAI_CONFIG, MODEL_FOLDER, QDQ_FOLDER, RECORD_FILE, load_record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from phiforge.variant import VariantRecord

ARM = ("arm64", "aarch64")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One variant: its name, the folder the runtime loads, the hash of its files, its record if phiforge built it.

    `calibration` has the texts it was calibrated on, where they are still beside it; `build` is the stage folder of a
    variant for an NPU, with all that was made on the way.
    """

    name: str
    folder: Path
    sha256: str
    record: VariantRecord | None
    calibration: Path | None = None
    build: Path | None = None

    @property
    def bytes(self) -> int:
        """Size of the variant's files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def find_subjects(path: Path) -> tuple[Subject, ...]:
    """Return the variants under `path`: a package, a built variant's folder, or a plain model folder.

    Raises:
        VariantUnusableError: The path is none of these, or its files are not the recorded ones.
        PackageInvalidError: It looks like a package and cannot be read.
    """
    if (path / MANIFEST).is_file():
        return tuple(
            _recorded(folder, path / BUILD_FOLDER / name, name) for name, folder in variant_folders(path).items()
        )
    if (path / RECORD_FILE).is_file():
        return (_recorded(path / MODEL_FOLDER, path, load_record(path).name),)
    if (path / GENAI_CONFIG).is_file():
        return (Subject(name=path.resolve().name, folder=path, sha256=hash_listing(hash_files(path)), record=None),)
    raise errors.VariantUnusableError(
        f"{path} holds no variant.",
        why="It has no manifest.json, no variant.json and no genai_config.json.",
        fix="Give a package (.ortpackage), a variant that `phiforge build` made, or a folder ONNX Runtime GenAI loads.",
    )


def _recorded(folder: Path, record_folder: Path, name: str) -> Subject:
    record = load_record(record_folder)
    digest = hash_listing(hash_files(folder))
    if digest != record.sha256:
        raise errors.VariantUnusableError(
            f"The files of variant {name} are not the ones that were built.",
            why=f"Their hash is {digest[:16]}, the record says {record.sha256[:16]}.",
            fix="Run `phiforge verify` on the package, or build again.",
        )
    texts = record_folder / CALIBRATION_FILE
    return Subject(
        name=name,
        folder=folder,
        sha256=digest,
        record=record,
        calibration=texts if texts.is_file() else None,
        build=record_folder if (record_folder / QDQ_FOLDER).is_dir() else None,
    )


def check_loads_here(subject: Subject) -> None:
    """Refuse what would take the process down: an NPU's binaries whose graphs share weights, on an x86 host.

    Raises:
        VariantUnusableError: The variant loads on its device only.
        SdkTooOldError: It was compiled with a newer SDK than the installed one.
        DependencyMissingError: The SDK is not installed.
    """
    npu = subject.record.npu if subject.record else None
    if npu is None:
        return
    # Imported here: the light commands do without the runtime.
    from phiforge.runtime.qnn import check_sdk

    check_sdk(npu.sdk_version, subject.folder)
    if describe_machine().process_architecture not in ARM:
        raise errors.VariantUnusableError(
            f"The variant {subject.name} loads on its device only.",
            why=f"Its binaries are for the chip with soc_model {npu.soc_model}, and share weights between graphs.",
            fix="Run this on the device; on the build machine give the variant's folder in the store, not the package.",
        )


def loadable(subjects: Sequence[Subject]) -> list[Subject]:
    """Return the variants that this machine can load.

    Raises:
        PhiforgeError: It can load none of them; the error is the first one's.
    """
    found, refused = [], []
    for subject in subjects:
        try:
            check_loads_here(subject)
            found.append(subject)
        except errors.PhiforgeError as error:
            refused.append(error)
    if not found and refused:
        raise refused[0]
    return found
