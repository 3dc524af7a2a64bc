"""What may take the place of a release: as the first one only itself, and nothing unsigned that of a signed one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from phiforge.release.destinations.destination import Destination
    from phiforge.release.destinations.existing import ReleaseFacts


@dataclass(frozen=True, kw_only=True)
class Successor:
    """A release on its way.

    Attributes:
        content_sha256: The content hash of its package.
        version: Its version.
        evidence: The hashes of the files of evidence beside the package, by name.
        signed: Whether it will be signed.
        first: Whether it is called the first one.
    """

    content_sha256: str
    version: str
    evidence: Mapping[str, str]
    signed: bool
    first: bool

    def repeats(self, facts: ReleaseFacts) -> bool:
        """Whether a release is this one, as a repeat after a crash finds it: of the same package and evidence."""
        same = (facts.content_sha256, facts.version) == (self.content_sha256, self.version)
        return same and dict(facts.evidence) == dict(self.evidence)


def check_succession(destination: Destination, there: Sequence[ReleaseFacts], successor: Successor) -> None:
    """Check that a release may take the place of those that are at its destination.

    All tags of an OCI layout count: who names none gets the one published last.

    Args:
        destination: Where it goes.
        there: The releases there, as `check_destination` found them.
        successor: The release that goes there.

    Raises:
        PreviousReleaseError: It is called the first one, and there is another release.
        DestinationError: It is not signed, and there is one that is.
    """
    other = next((facts for facts in there if not successor.repeats(facts)), None)
    if successor.first and other is not None:
        raise errors.PreviousReleaseError(
            f"The release to {destination} is not the first one.",
            why=f"There is {other.model} {other.version}, and it has other files, other evidence or another version.",
            fix=f"Give {_against(destination)} instead of --first, or another --to.",
        )
    signed = next((facts for facts in there if facts.signed), None)
    if signed is not None and not successor.signed:
        raise errors.DestinationError(
            f"An unsigned release cannot go to {destination}.",
            why=f"There is {signed.model} {signed.version}, which is signed.",
            fix="Sign with --key or --keyless, or give another --to.",
        )


def _against(destination: Destination) -> str:
    if destination.form == "hub":
        branch = f" --revision {destination.tag}" if destination.tag else ""
        return f"--against with what `hf download {destination.repository}{branch}` brings"
    if destination.form == "foundry":
        return "--against with its release in another form, or its package,"
    return f"--against {destination.path}"
