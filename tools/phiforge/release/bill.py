"""The bill of materials: a CycloneDX 1.6 ML-BOM, by cyclonedx-python-lib.

The library has no class for model cards, so they are put into its JSON, and the whole is checked by its own validator
against the specification's schema. Specification: cyclonedx.org/docs/1.6/json.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from phiforge import errors
from phiforge.evidence import Tasks
from phiforge.packaging.layout import COMPONENT_FOLDER
from phiforge.release.layout import BILL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

    from phiforge.evidence import AnyEvidence
    from phiforge.release.card import CardInput
    from phiforge.release.layout import Number, ProfileStanding

FAMILY = "transformer"
ARCHITECTURE = "Phi3ForCausalLM"
TASK = "text-generation"


def bill_of_materials(
    given: CardInput,
    sums: Mapping[str, str],
    evidence: Mapping[str, Sequence[AnyEvidence]],
    runtimes: Mapping[str, str],
) -> str:
    """Return sbom.cdx.json.

    Args:
        given: What the model card is made of too.
        sums: SHA-256 of the package's files.
        evidence: All records, by profile; the data sets in it are materials too.
        runtimes: By profile, what it is run by, as "onnxruntime-genai 0.18.0".

    Raises:
        DependencyMissingError: cyclonedx-python-lib is not installed.
    """
    check_library()
    # Imported here: it belongs to the extra.
    from cyclonedx.output.json import JsonV1Dot6

    content = json.loads(JsonV1Dot6(_bom(given, sums, evidence, runtimes)).output_as_string())
    content["metadata"].pop("timestamp", None)  # a release tells no moment, so that it can be made again
    cards = {f"variant:{name}": _card(name, given) for name in given.recipes}
    for component in content["components"]:
        if component["bom-ref"] in cards:
            component["modelCard"] = cards[component["bom-ref"]]
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    _validate(text)
    return text


def check_library() -> None:
    """Find out before any work whether a bill of materials can be written.

    Raises:
        DependencyMissingError: It cannot.
    """
    try:
        import cyclonedx.validation.json  # noqa: F401
    except ImportError as error:
        raise errors.DependencyMissingError(
            "The bill of materials is written by cyclonedx-python-lib, which is not installed.",
            why=f"{error}.",
            fix="Install it: pip install 'phiforge[release]'.",
        ) from error


def check_bill(folder: Path, package: str, sums: Mapping[str, str]) -> None:
    """Check that the files a bill of materials names are those of the package.

    Args:
        folder: A release folder.
        package: The package's folder in it.
        sums: SHA-256 of the package's files.

    Raises:
        PackageTamperedError: It cannot be read, or names other files or hashes.
    """
    try:
        content = json.loads((folder / BILL).read_text(encoding="utf-8"))
        named = {
            item["name"]: {entry["alg"]: entry["content"] for entry in item["hashes"]}["SHA-256"]
            for component in content["components"]
            for item in component.get("components", [])
            if item["type"] == "file"
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _other(f"It cannot be read: {error!r}.") from error
    own = {f"{package}/{path}": digest for path, digest in sums.items() if path in _shipped(sums)}
    if named != own:
        other = sorted(name for name in named.keys() | own.keys() if named.get(name) != own.get(name))
        raise _other(f"It is of other files: {', '.join(other[:8])}.")


def _bom(
    given: CardInput,
    sums: Mapping[str, str],
    evidence: Mapping[str, Sequence[AnyEvidence]],
    runtimes: Mapping[str, str],
) -> Bom:
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType

    record = given.record
    release = Component(
        name=record.name,
        version=record.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="release",
        licenses=_licences([record.licence]),
        properties=[
            Property(name="phiforge:content-sha256", value=record.package.content_sha256),
            Property(name="phiforge:seal-sha256", value=record.package.seal_sha256),
        ],
    )
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{record.package.seal_sha256} {record.version}"))
    bom.metadata.component = release
    bom.metadata.tools.components.add(_software("phiforge", record.phiforge_version, published=False))
    variants = {name: _variant(name, given, sums) for name in given.recipes}
    base = _checkpoint(given)
    tools = [_software(name, version) for name, version in sorted(_tools(given))]
    run_by = {profile: _software(*text.split(" ", 1), kind="runtime") for profile, text in runtimes.items()}
    for component in (*variants.values(), base, *tools, *run_by.values(), *_data(evidence)):
        bom.components.add(component)
    bom.register_dependency(release, list(variants.values()))
    for name, component in variants.items():
        needed = [run_by[profile] for profile, item in record.profiles.items() if item.variant == name]
        bom.register_dependency(component, [base, *needed])
    return bom


def _variant(name: str, given: CardInput, sums: Mapping[str, str]) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    prefix, made = f"{COMPONENT_FOLDER}/{name}/", given.recipes[name].record
    folder = given.record.package.folder
    files = [
        Component(
            name=f"{folder}/{path}",
            type=ComponentType.FILE,
            bom_ref=f"file:{path}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        )
        for path, digest in sums.items()
        if path.startswith(prefix)
    ]
    return Component(
        name=name,
        version=made.sha256[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"variant:{name}",
        licenses=_licences([given.record.licence]),
        components=files,
        properties=[
            Property(name="phiforge:variant-sha256", value=made.sha256),
            Property(name="phiforge:bits-per-weight", value=f"{made.bits_per_weight:.4f}"),
            Property(name="phiforge:execution-provider", value=f"{made.provider} on {made.device}"),
            *(Property(name=f"phiforge:option:{key}", value=value) for key, value in sorted(made.options.items())),
        ],
    )


def _checkpoint(given: CardInput) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    made = next(iter(given.recipes.values())).record.checkpoint
    owner, _, name = (given.hub_id or "").rpartition("/")
    return Component(
        name=made.name,
        version=made.fingerprint[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="checkpoint",
        purl=PackageURL(type="huggingface", namespace=owner, name=name) if name else None,
        properties=[
            Property(name="phiforge:fingerprint-sha256", value=made.fingerprint),
            Property(name="phiforge:parameters", value=str(made.parameters)),
        ],
    )


def _software(name: str, version: str, *, kind: str = "tool", published: bool = True) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    known = published and name != "phiforge-code"
    return Component(
        name=name,
        version=version,
        type=ComponentType.FRAMEWORK if kind == "runtime" else ComponentType.LIBRARY,
        bom_ref=f"{kind}:{name}@{version}",
        purl=PackageURL(type="pypi", name=name, version=version) if known else None,
    )


def _tools(given: CardInput) -> set[tuple[str, str]]:
    found = {item for recipe in given.recipes.values() for item in recipe.record.toolchain.items()}
    return {(name, version) for name, version in found if version != "absent"}


def _data(evidence: Mapping[str, Sequence[AnyEvidence]]) -> list[Component]:
    """The data sets that the numbers come from, by hash, with the licence they came under where it is told."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    found: dict[str, tuple[str, str]] = {}
    for record in (item for records in evidence.values() for item in records):
        sources = [score.source for score in record.scores if score.source] if isinstance(record, Tasks) else []
        for source in sources:
            found[source.sha256] = (source.file, source.licence)
        conditions = record.conditions
        if conditions.dataset_sha256 and not sources:
            found.setdefault(conditions.dataset_sha256, (conditions.dataset or "data", ""))
    return [
        Component(
            name=name,
            type=ComponentType.DATA,
            bom_ref=f"data:{digest}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            licenses=_licences([licence] if licence else []),
        )
        for digest, (name, licence) in sorted(found.items())
    ]


def _licences(expressions: Iterable[str]) -> list[Any]:
    from cyclonedx.contrib.license.factories import LicenseFactory

    return [LicenseFactory().make_from_string(text) for text in expressions]


def _card(name: str, given: CardInput) -> dict[str, Any]:
    """The modelCard of a variant: what it is, its numbers on each profile, and what they do not show."""
    standings = {profile: item for profile, item in given.record.profiles.items() if item.variant == name}
    limits = [text for profile in standings for text in given.limits.get(profile, ())]
    limits += [
        f"Waived for {item.profile}: {', '.join(item.checks)}. Reason given: {item.reason}"
        for item in given.record.waivers
        if item.profile in standings
    ]
    return {
        "modelParameters": {"task": TASK, "architectureFamily": FAMILY, "modelArchitecture": ARCHITECTURE},
        "quantitativeAnalysis": {"performanceMetrics": _metrics(standings)},
        "considerations": {"technicalLimitations": list(dict.fromkeys(limits))},
    }


def _metrics(standings: Mapping[str, ProfileStanding]) -> list[dict[str, Any]]:
    return [_metric(profile, number) for profile, item in standings.items() for number in item.numbers]


def _metric(profile: str, number: Number) -> dict[str, Any]:
    metric: dict[str, Any] = {
        "type": number.metric,
        "value": repr(number.value),
        "slice": f"{profile}, {number.kind or 'fact'}{number.where}",
    }
    if number.low is not None and number.high is not None:
        metric["confidenceInterval"] = {"lowerBound": repr(number.low), "upperBound": repr(number.high)}
    return metric


def _shipped(sums: Mapping[str, str]) -> set[str]:
    """The files of the variants: those below their folders."""
    return {path for path in sums if path.startswith(f"{COMPONENT_FOLDER}/") and path.count("/") > 2}


def _validate(text: str) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise AssertionError(f"{BILL} breaks its schema: {fault}")


def _other(why: str) -> errors.PackageTamperedError:
    return errors.PackageTamperedError(
        f"{BILL} is not of this release.",
        why=why,
        fix="Do not use this release; get it again from where it was published.",
    )
