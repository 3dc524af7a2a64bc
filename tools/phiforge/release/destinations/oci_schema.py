"""The files of an OCI image layout as a release uses them, after the OCI image specification 1.1 and CNCF ModelPack.

A release is one manifest: the config of ModelPack's model specification, one layer for each variant, and one for all
the rest. Each layer is a tar of paths relative to the release folder, so unpacking all of them gives that folder, and a
client that wants one variant fetches the layer whose annotations name it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

IndexType = Literal["application/vnd.oci.image.index.v1+json"]
ManifestType = Literal["application/vnd.oci.image.manifest.v1+json"]
ArtifactType = Literal["application/vnd.cncf.model.manifest.v1+json"]
INDEX_TYPE: IndexType = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: ManifestType = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE: ArtifactType = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
VARIANT_TYPE = "application/vnd.cncf.model.weight.v1.tar"
REST_TYPE = "application/vnd.cncf.model.doc.v1.tar"

TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
LICENCES = "org.opencontainers.image.licenses"
REFERENCE = "org.opencontainers.image.ref.name"
FILE_PATH = "org.cncf.model.filepath"
TAG_KEY, VARIANT, PROVIDER, DEVICE = "phiforge.tag", "phiforge.variant", "phiforge.ep", "phiforge.device"


class _Entry(BaseModel):
    """Base of the layout's objects: frozen, unknown keys forbidden, so that no changed byte passes for a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Descriptor(_Entry):
    """What names a blob: media type, digest and size."""

    mediaType: str  # noqa: N815 - the specification's key
    digest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    artifactType: str | None = None  # noqa: N815
    annotations: dict[str, str] | None = None

    @property
    def hex(self) -> str:
        """The digest's digits, the blob's name."""
        return self.digest.removeprefix("sha256:")

    def annotation(self, key: str) -> str:
        """An annotation, empty where there is none."""
        return (self.annotations or {}).get(key, "")


class Layout(_Entry):
    """oci-layout."""

    imageLayoutVersion: Literal["1.0.0"]  # noqa: N815


class ManifestDescriptor(Descriptor):
    """One manifest in the index, with its tag."""

    mediaType: ManifestType  # noqa: N815
    artifactType: ArtifactType  # noqa: N815

    @property
    def tag(self) -> str:
        """The tag it is found by."""
        return self.annotation(REFERENCE)


class Index(_Entry):
    """index.json: the manifests, the one that was published last at the end."""

    schemaVersion: Literal[2] = 2  # noqa: N815
    mediaType: IndexType = INDEX_TYPE  # noqa: N815
    manifests: Annotated[tuple[ManifestDescriptor, ...], Field(min_length=1)]


class ImageManifest(_Entry):
    """A manifest: one release."""

    schemaVersion: Literal[2] = 2  # noqa: N815
    mediaType: ManifestType = MANIFEST_TYPE  # noqa: N815
    artifactType: ArtifactType = ARTIFACT_TYPE  # noqa: N815
    config: Descriptor
    layers: Annotated[tuple[Descriptor, ...], Field(min_length=1)]
    annotations: dict[str, str]


def dump(entry: BaseModel | dict[str, Any]) -> bytes:
    """Write an object of the layout: the same bytes for the same content."""
    content = entry.model_dump(exclude_none=True) if isinstance(entry, BaseModel) else entry
    return (json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode("utf-8")
