"""Package: put variants, what they were made of, their evidence and reports into one sealed folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING
from urllib.parse import quote

from phiforge import catalog, errors
from phiforge.contradictions import contradiction
from phiforge.evidence import load_evidence, parse_evidence
from phiforge.evidence_file import EvidenceSource
from phiforge.hashing import hash_bytes
from phiforge.packaging.layout import BUILD_FOLDER, EVIDENCE_FOLDER, PROFILE_FOLDER, REFERENCE_FOLDER, SUFFIX
from phiforge.packaging.verify import verify_package
from phiforge.packaging.write import Contents, PackagedVariant, write_package
from phiforge.reporting import Source, make_entry, make_fleet, report_html, report_json, report_markdown
from phiforge.store import Store, disk_full_guard
from phiforge.target import load_profile
from phiforge.variant import PLAN_FILE, RECORD_FILE, WORKFLOW_FILE
from phiforge.verbs.judging import counted, make_report, phiforge_version
from phiforge.verbs.merging import OF_ONE_PROFILE, named_profile, read_brought
from phiforge.verbs.packaged import packaged_profiles
from phiforge.verbs.reference import reference_files
from phiforge.verbs.subject import find_subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from phiforge.evidence import AnyEvidence
    from phiforge.reporting import Entry, Report
    from phiforge.target import Profile
    from phiforge.variant import VariantRecord
    from phiforge.verbs.subject import Subject
    from phiforge.verbs.watch import StageRecord

ANSWER_PROMPT = "What is 12 + 34?"
ANSWER_TOKENS = 8
BUILD_FILES = (RECORD_FILE, PLAN_FILE, WORKFLOW_FILE, "olive-package.json")


@dataclass(frozen=True, kw_only=True)
class PackageInput:
    """One variant and what is known of it.

    `about` holds variant.json, plan.json and the workflow; `evidence` maps file names to JSON text; `brought` are files
    of other machines that measured this variant.
    """

    subject: Subject
    about: Path
    evidence: dict[str, str]
    profiles: tuple[Profile, ...]
    licences: tuple[Path, ...]
    brought: tuple[EvidenceSource, ...] = ()

    @property
    def record(self) -> VariantRecord:
        """The variant's record.

        Raises:
            VariantUnusableError: phiforge did not build this variant, so there is none.
        """
        if self.subject.record is None:
            raise errors.VariantUnusableError(
                f"{self.subject.folder} was not built by phiforge, so it cannot be packaged.",
                why="A package names the checkpoint and plan its variants come from; this folder has no variant.json.",
                fix="Build the variant with `phiforge build`.",
            )
        return self.subject.record

    def evidence_for(self, profile: Profile) -> list[AnyEvidence]:
        """The evidence for a profile: all but latency, prediction and comparison as another profile says.

        What was brought comes first; of the package's own, a plain name comes before longer ones, as drift.json before
        drift-emulated.json.
        """
        return [record for record, _ in self.traced(profile)]

    def traced(self, profile: Profile) -> list[tuple[AnyEvidence, str | Path]]:
        """That evidence, each piece with its file: its name in the package's folder, or where it was brought from.

        Nothing takes the place of anything else: all pieces count, equal ones once.
        """
        found: dict[str, tuple[AnyEvidence, str | Path]] = {}
        for source in (*self._sealed(), *self.brought):
            if source.profile in (None, profile.name):
                for record in source.records:
                    found.setdefault(record.model_dump_json(), (record, source.place))
        return sorted(found.values(), key=lambda item: isinstance(item[1], str))

    def check_agree(self) -> None:
        """Check that no two files that count for one profile contradict each other.

        Raises:
            EvidenceInvalidError: Two do.
        """
        for profile in self.profiles:
            sources = [item for item in (*self._sealed(), *self.brought) if item.profile in (None, profile.name)]
            counting = [replace(item, records=tuple(counted(item.records, profile))) for item in sources]
            for one, other in combinations(counting, 2):
                why = contradiction(one, other)
                if why is not None:
                    raise _contradicting(self._told(one), self._told(other), why)

    def _sealed(self) -> list[EvidenceSource]:
        """The package's own files, without those of one profile whose name tells none."""
        names = [profile.name for profile in self.profiles]
        found = []
        for name, text in sorted(self.evidence.items(), key=lambda item: item[0].removesuffix(".json")):
            record = parse_evidence(text, name)
            profile = named_profile(record, name, names) if isinstance(record, OF_ONE_PROFILE) else None
            if profile is not None or not isinstance(record, OF_ONE_PROFILE):
                found.append(EvidenceSource(place=name, profile=profile, records=(record,)))
        return found

    def _remarks(self) -> list[str]:
        """What is to be said of the package's own files that count for no profile."""
        known = {source.place for source in self._sealed()}
        return [
            f"{name} does not count: its name tells no profile of this variant."
            for name in sorted(self.evidence.keys() - known)
        ]

    def _told(self, source: EvidenceSource) -> str:
        """How an error calls a file."""
        inside = isinstance(source.place, str)
        return f"{EVIDENCE_FOLDER}/{self.subject.name}/{source.place} of the package" if inside else str(source.place)

    def reports(self, stages: Sequence[StageRecord] = ()) -> dict[str, Report]:
        """The report of the variant for each of its profiles."""
        return {
            profile.name: make_report(
                self.record,
                profile,
                self.evidence_for(profile),
                stages,
                self._remarks(),
                folder=self.subject.folder,
            )
            for profile in self.profiles
        }

    def entries(
        self,
        package: str,
        content_sha256: str,
        source: Callable[[str | Path], Source],
        stages: Sequence[StageRecord] = (),
    ) -> list[Entry]:
        """The variant's part of a report over packages, for each of its profiles.

        Args:
            package: Name of the package's folder.
            content_sha256: The package's content hash.
            source: What a report says of a file that `traced` names.
            stages: The stages of the build, if it was just now.
        """
        made = []
        for profile in self.profiles:
            traced = self.traced(profile)
            found = [record for record, _ in traced]
            report = make_report(self.record, profile, found, stages, self._remarks(), folder=self.subject.folder)
            sources = {id(record): source(place) for record, place in traced}
            made.append(make_entry(package, content_sha256, report, sources))
        return made


def package(
    variant: Path, *, evidence: Path, targets: Sequence[str], output: Path, project: Path | None = None
) -> Path:
    """Package a built variant with its evidence and return the package's folder.

    Args:
        variant: A variant that `phiforge build` made (the folder with variant.json).
        evidence: The folder with the variant's evidence: every *.json in it, of which latency-<profile>.json counts for
            that profile alone. If `phiforge validate` wrote the folder, the package also gets the reference in it,
            without which it cannot be validated away from its checkpoint.
        targets: Device profiles it is packaged for.
        output: Folder that receives the package.
        project: The project whose profiles are meant; found from the working folder by default.

    Raises:
        VariantUnusableError: The variant does not load or does not answer.
        EvidenceInvalidError: A file of the evidence is broken, or of another variant.
        PackageInvalidError: The reference beside the evidence is broken, or of another checkpoint.
    """
    root = project or catalog.find_project()
    profiles = tuple(load_profile(catalog.profile_path(root, name)) for name in targets)
    (subject,) = find_subjects(variant)
    found = {
        path.name: path.read_text(encoding="utf-8") for path in sorted(evidence.glob("*.json")) if load_evidence(path)
    }
    item = PackageInput(
        subject=subject,
        about=variant,
        evidence=found,
        profiles=profiles,
        licences=tuple(sorted(variant.glob("LICENSE*"))),
    )
    final = output / f"{item.record.checkpoint.name}{SUFFIX}"
    beside = evidence / REFERENCE_FOLDER
    reference = reference_files(beside, item.record.checkpoint) if beside.is_dir() else {}
    with Store(output / "store").lock():
        publish([item], final, (), reference)
    return final


def publish(
    inputs: Sequence[PackageInput],
    final: Path,
    stages: Sequence[StageRecord],
    reference: Mapping[str, bytes] | None = None,
) -> tuple[str, str]:
    """Write a package under its final name, whole or not at all; return its content hash and its seal.

    Before it is called a package, every variant in it that this machine can load is made to answer. Call with the lock
    held.
    """
    for item in inputs:
        # An NPU's binaries load on the device alone; whether they answer is a matter of their evidence.
        if item.record.npu is None:
            check_answer(item.subject)
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_full_guard(final.parent):
        try:
            partial.mkdir(parents=True)
            content = write_package(_contents(inputs, final.name, stages, reference or {}), partial)
            seal = verify_package(partial).seal_sha256
            _swap(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return content, seal


def check_answer(subject: Subject) -> None:
    """Load a variant and make it answer.

    Raises:
        VariantUnusableError: It does not load, or gives no token.
    """
    from phiforge.runtime.generate import generate
    from phiforge.runtime.variant import open_variant

    # A GPU's graph answers on the CPU provider too; the device may not be here.
    variant = open_variant(subject.folder, stand_in=subject.record is not None and subject.record.device == "gpu")
    prompt = variant.encode(variant.apply_chat_template([{"role": "user", "content": ANSWER_PROMPT}]))
    (answer,) = generate(variant, [prompt], max_new_tokens=ANSWER_TOKENS)
    if not answer.tokens:
        raise errors.VariantUnusableError(
            f"The variant {subject.name} loads but does not answer.",
            why=f"Asked {ANSWER_PROMPT!r}, it gave no token.",
            fix="Look at its probes with `phiforge validate`; the chat template or the stop ids may be wrong.",
        )


def read_package(folder: Path) -> list[PackageInput]:
    """Read back what a package was made of, with the evidence it holds."""
    inputs = []
    for subject in find_subjects(folder):
        about = folder / BUILD_FOLDER / subject.name
        evidence = sorted((folder / EVIDENCE_FOLDER / subject.name).glob("*.json"))
        inputs.append(
            PackageInput(
                subject=subject,
                about=about,
                profiles=tuple(packaged_profiles(folder, subject.name).values()),
                evidence={path.name: path.read_text(encoding="utf-8") for path in evidence},
                licences=tuple(sorted(folder.glob("LICENSE*"))),
            )
        )
    return inputs


def with_brought(folder: Path, inputs: Sequence[PackageInput], evidence: Sequence[Path]) -> list[PackageInput]:
    """Put evidence from elsewhere beside what a package holds.

    Args:
        folder: The package, as it was sealed.
        inputs: What it was made of.
        evidence: Evidence files and single records of it.

    Raises:
        EvidenceInvalidError: As `merging.read_brought`, or two files contradict each other.
    """
    brought = read_brought(folder, {item.subject.name: item.subject.sha256 for item in inputs}, evidence)
    found = [replace(item, brought=brought[item.subject.name]) for item in inputs]
    for item in found:
        item.check_agree()
    return found


def _contradicting(one: str, other: str, why: str) -> errors.EvidenceInvalidError:
    return errors.EvidenceInvalidError(
        f"The evidence files {one} and {other} contradict each other.",
        why=f"They are of one variant on one machine with the same tools, but {why}.",
        fix="Find out which is true and give that one alone, or measure once more.",
    )


def _contents(
    inputs: Sequence[PackageInput], package: str, stages: Sequence[StageRecord], reference: Mapping[str, bytes]
) -> Contents:
    record = inputs[0].record
    renderers = {"report.json": report_json, "report.md": report_markdown, "report.html": report_html}

    def reports(content: str) -> dict[str, str]:
        entries = [entry for item in inputs for entry in item.entries(package, content, partial(_inside, item), stages)]
        fleet = make_fleet(entries, phiforge_version())
        return {name: render(fleet) for name, render in renderers.items()}

    return Contents(
        name=record.checkpoint.name,
        version=record.checkpoint.fingerprint[:12],
        description=f"{record.checkpoint.name}, built by phiforge for ONNX Runtime GenAI",
        licences=inputs[0].licences,
        reference=reference,
        variants=[_packaged(item) for item in inputs],
        reports=reports,
        metadata={
            "producer": "phiforge",
            "producer_version": phiforge_version(),
            "checkpoint": record.checkpoint.model_dump(),
        },
    )


def _inside(item: PackageInput, name: str | Path) -> Source:
    """What the report inside a package says of a file of its evidence."""
    assert isinstance(name, str)
    file = f"{EVIDENCE_FOLDER}/{item.subject.name}/{name}"
    return Source(file=file, sha256=hash_bytes(item.evidence[name].encode("utf-8")), href=f"../{quote(file)}")


def _packaged(item: PackageInput) -> PackagedVariant:
    about = {name: (item.about / name).read_text(encoding="utf-8") for name in BUILD_FILES}
    profiles = {
        f"{PROFILE_FOLDER}/{profile.name}.json": profile.model_dump_json(indent=1) + "\n" for profile in item.profiles
    }
    record = item.record
    npu = record.npu.model_dump(include={"sdk_version", "soc_model", "confirmed"}) if record.npu else None
    return PackagedVariant(
        name=record.name,
        folder=item.subject.folder,
        sha256=record.sha256,
        provider=record.provider,
        device=record.device,
        build=about | profiles,
        evidence=item.evidence,
        metadata={
            "bytes": record.bytes,
            "bits_per_weight": record.bits_per_weight,
            "profiles": [profile.name for profile in item.profiles],
            "runtime": f"{item.profiles[0].runtime.package} {item.profiles[0].runtime.version}",
            **({"npu": npu} if npu else {}),
        },
    )


def _swap(partial: Path, final: Path) -> None:
    """Put a complete folder in the place of an earlier one."""
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    shutil.rmtree(old, ignore_errors=True)
