"""Names and manifests of a package, after the ONNX Runtime model-package layout, schema version 1.0.

    manifest.json                      one component, no genai_config.json beside it
    models/model/component.json       the variants: folder, execution provider, device
    models/model/<variant>/           complete; loads by itself with onnxruntime_genai.Model(folder)
    build/<variant>/                   what it was made of: record, plan, workflow, device profiles
    reference/                         what the original says, to hold a variant against where there is no original
    evidence/<variant>/ report/        what it is worth
    LICENSE
    SHA256SUMS                        every other file; its own hash is the package's seal

Specification: onnxruntime/core/session/model_package/README.md. What is not in it travels in `additional_metadata`.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from phiforge import errors

if TYPE_CHECKING:
    from pathlib import Path

_Model = TypeVar("_Model", bound=BaseModel)

SUFFIX = ".ortpackage"
MANIFEST = "manifest.json"
SUMS = "SHA256SUMS"
COMPONENT_FOLDER = "models/model"
COMPONENT = "component.json"
EVIDENCE_FOLDER = "evidence"
BUILD_FOLDER = "build"
REFERENCE_FOLDER = "reference"
PROFILE_FOLDER = "profiles"
REPORT_FOLDER = "report"
# Names that Windows keeps for devices, whatever extension they have, and letters it forbids in names.
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}) | {
    f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789\u00b9\u00b2\u00b3"
}
_FORBIDDEN = frozenset('<>:"|?*\\')
# Measured anew on every machine and in every run: sealed, but not part of what the package is.
VARYING_FOLDERS = (EVIDENCE_FOLDER, REPORT_FOLDER)


class Entry(BaseModel):
    """Base of the manifest's objects: frozen, unknown keys forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VariantEntry(Entry):
    """One variant of the component."""

    variant_directory: str
    ep: str
    device: Literal["cpu", "gpu", "npu"]
    compatibility_string: str | None = None
    additional_metadata: dict[str, Any] = {}

    @field_validator("variant_directory")
    @classmethod
    def _inside(cls, value: str) -> str:
        return check_inside(value)


class Component(Entry):
    """component.json: the variants of one model."""

    component_name: str
    variants: Annotated[dict[str, VariantEntry], Field(min_length=1)]

    @field_validator("variants")
    @classmethod
    def _names(cls, value: dict[str, VariantEntry]) -> dict[str, VariantEntry]:
        for name in value:  # folders are called by them
            if "/" in check_inside(name):
                raise ValueError(f"{name!r} is no name of a variant")
        return value


class Manifest(Entry):
    """manifest.json of the package."""

    schema_version: Literal["1.0"]
    package_name: str
    package_version: str
    description: str
    layout: Literal["portable"] = "portable"
    components: dict[str, str]
    additional_metadata: dict[str, Any] = {}

    @field_validator("components")
    @classmethod
    def _inside(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: check_inside(path) for name, path in value.items()}


def check_inside(path: str) -> str:
    """Return `path` if it stays inside its folder and names the same file on every system.

    Windows keeps some names for devices, drops dots and spaces at the end of a name, and forbids some letters
    (Microsoft, "Naming Files, Paths, and Namespaces").

    Raises:
        UnsafePathError: It is absolute, climbs out, or has a name that Windows reads in another way.
    """
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts:
        raise _unsafe(path, "leaves its folder", "Paths in a manifest are relative to it and never climb out.")
    if not all(_is_name_everywhere(part) for part in pure.parts):
        raise _unsafe(path, "is none on Windows", "A name in it is kept for a device there, or cannot be a file's.")
    return path


def _is_name_everywhere(name: str) -> bool:
    return (
        name.split(".")[0].rstrip(" ").upper() not in _DEVICES
        and not name.endswith((".", " "))
        and not any(letter in _FORBIDDEN or ord(letter) < ord(" ") for letter in name)
    )


def _unsafe(path: str, what: str, why: str) -> errors.UnsafePathError:
    return errors.UnsafePathError(
        f"A path in the package {what}: {path!r}.",
        why=why,
        fix="Do not use this package; get it again from where it was published.",
    )


def load_manifest(package: Path) -> Manifest:
    """Read the manifest of a package folder.

    Raises:
        PackageInvalidError: The folder has no readable manifest.
        UnsafePathError: A path in it leaves the package.
    """
    return _load(package / MANIFEST, Manifest, package)


def load_component(package: Path) -> Component:
    """Read the one component of a package folder.

    Raises:
        PackageInvalidError: The folder has no readable component.
        UnsafePathError: A path in it leaves the package.
    """
    manifest = load_manifest(package)
    if len(manifest.components) != 1:
        raise not_a_package(package, f"The manifest names {len(manifest.components)} components; there must be one.")
    (folder,) = manifest.components.values()
    return _load(package / folder / COMPONENT, Component, package)


def variant_folders(package: Path) -> dict[str, Path]:
    """Folder of every variant, by name."""
    (folder,) = load_manifest(package).components.values()
    component = load_component(package)
    return {name: package / folder / entry.variant_directory for name, entry in component.variants.items()}


def not_a_package(package: Path, why: str) -> errors.PackageInvalidError:
    """The error for a folder that cannot be read as a package."""
    return errors.PackageInvalidError(
        f"{package} is no phiforge package.",
        why=why,
        fix="Give the folder that ends in .ortpackage, as `phiforge build` prints it.",
    )


def _load(path: Path, model: type[_Model], package: Path) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise not_a_package(package, f"{path.name} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise not_a_package(package, f"{path.name}: {why}") from error
