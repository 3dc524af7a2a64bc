"""Every failure phiforge expects: one class, one exit code, one four-part message.

A message says what happened, why, what to do and where to read. `cli` prints it in one line each and exits with the
class's code; anything that is not a `PhiforgeError` is a bug and keeps its traceback.

Exit codes 0 to 9 are not errors of this file: 0 done, 1 a bug, 2 wrong usage, 3 the verdict is fail, 4 the verdict is
unverified, 130 interrupted.
"""

from __future__ import annotations

from typing import ClassVar


class PhiforgeError(Exception):
    """An expected failure.

    Attributes:
        what: What happened, one sentence.
        why: The cause as far as it is known.
        fix: What the user can do.
        exit_code: The process exit code, one for each class.
        read: The page that explains it.
    """

    exit_code: ClassVar[int] = 9

    def __init__(self, what: str, *, why: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix

    @property
    def read(self) -> str:
        """The section of docs/errors.md about this class."""
        return f"docs/errors.md#{self.exit_code}"

    def __str__(self) -> str:
        return f"{self.what} ({self.why})"


# Checkpoints.


class CheckpointNotFoundError(PhiforgeError):
    """The checkpoint folder does not exist or is not a folder."""

    exit_code = 10


class ConfigMissingError(PhiforgeError):
    """The checkpoint folder holds no config.json."""

    exit_code = 11


class ConfigInvalidError(PhiforgeError):
    """config.json is not JSON, or a field that is needed is absent or absurd."""

    exit_code = 12


class ArchitectureUnsupportedError(PhiforgeError):
    """The checkpoint is of an architecture phiforge does not build."""

    exit_code = 13


class WeightsTruncatedError(PhiforgeError):
    """A safetensors file is shorter than its header promises."""

    exit_code = 14


class WeightsHeaderError(PhiforgeError):
    """A safetensors header cannot be read or contradicts itself."""

    exit_code = 15


class TensorMissingError(PhiforgeError):
    """A tensor the configuration calls for is in no weights file."""

    exit_code = 16


class TensorShapeError(PhiforgeError):
    """A tensor's shape or dtype is not what the configuration calls for."""

    exit_code = 17


class WeightsNotFiniteError(PhiforgeError):
    """A weight is NaN or infinite."""

    exit_code = 18


class PickleWeightsError(PhiforgeError):
    """The checkpoint has only pickle weights; loading them runs code, so phiforge refuses."""

    exit_code = 19


class TokenizerMismatchError(PhiforgeError):
    """The tokenizer is absent, unreadable, or does not fit the model's vocabulary."""

    exit_code = 20


class ConfigMismatchError(PhiforgeError):
    """config.json and the tensors say different things of the model."""

    exit_code = 39


class WeightsDuplicateError(PhiforgeError):
    """A tensor is in two weights files, or the index lists it twice."""

    exit_code = 40


# The Hugging Face Hub.


class NetworkError(PhiforgeError):
    """The Hub cannot be reached, or the connection broke and stayed broken."""

    exit_code = 41


class HubModelUnknownError(PhiforgeError):
    """The Hub has no such model, or does not give it to everybody."""

    exit_code = 42


class RevisionInvalidError(PhiforgeError):
    """No commit of the Hub's repository is named, or it has no such commit."""

    exit_code = 43


class DownloadCorruptError(PhiforgeError):
    """A downloaded file is not the one that the Hub describes."""

    exit_code = 44


# Names and files of the project.


class ProfileUnknownError(PhiforgeError):
    """No device profile has this name."""

    exit_code = 21


class PipelineUnknownError(PhiforgeError):
    """No pipeline has this name."""

    exit_code = 22


class ProfileInvalidError(PhiforgeError):
    """A device profile breaks its schema: unknown key, wrong unit, wrong type."""

    exit_code = 23


class PipelineInvalidError(PhiforgeError):
    """A pipeline breaks its schema or is no Olive workflow."""

    exit_code = 24


class ProjectNotFoundError(PhiforgeError):
    """No folder with pipelines/ and targets/ is at or above the working folder."""

    exit_code = 25


# Resources.


class DiskFullError(PhiforgeError):
    """The disk is too small for the plan, or filled up during the work."""

    exit_code = 26


class MemoryTooSmallError(PhiforgeError):
    """The machine has less free memory than the plan needs."""

    exit_code = 27


class OutputUnwritableError(PhiforgeError):
    """The output folder cannot be made or written."""

    exit_code = 52


class OutputLockedError(PhiforgeError):
    """Another build is working in this output folder."""

    exit_code = 28


class DependencyMissingError(PhiforgeError):
    """A part of phiforge needs a package that is not installed."""

    exit_code = 29


# Building and running.


class BuildFailedError(PhiforgeError):
    """Olive ended without the files the plan promises."""

    exit_code = 30


class GraphMismatchError(PhiforgeError):
    """The graph is not the planned one: operators, bits, blocks, or a tensor unused or used twice."""

    exit_code = 31


class VariantUnusableError(PhiforgeError):
    """A variant folder is incomplete, does not load, or does not answer."""

    exit_code = 32


class FallbackError(PhiforgeError):
    """Nodes ran on another provider than the variant promises."""

    exit_code = 33


class EvidenceInvalidError(PhiforgeError):
    """An evidence file breaks its schema, or belongs to another variant."""

    exit_code = 34


class CalibrationInvalidError(PhiforgeError):
    """Calibration texts are too few, empty, no text at all, or break their schema."""

    exit_code = 45


class ActivationRangeError(PhiforgeError):
    """Calibration left the range of an activation empty, constant or infinite."""

    exit_code = 46


class CompileFailedError(PhiforgeError):
    """A device's compiler refused a graph, crashed, or left no complete binary."""

    exit_code = 47


class ContextTooLongError(PhiforgeError):
    """More context is asked for than the graphs hold."""

    exit_code = 48


class SdkTooOldError(PhiforgeError):
    """A variant was compiled with a newer SDK than the runtime's."""

    exit_code = 49


class ConformanceError(PhiforgeError):
    """A graph has nodes that its provider has no kernel for."""

    exit_code = 51


class TasksInvalidError(PhiforgeError):
    """A file of tasks has an id twice, no answers, an unknown licence, another hash than it declares, or no format."""

    exit_code = 53


class SandboxUnavailableError(PhiforgeError):
    """Code of a model was to be run, but this machine cannot lock it in."""

    exit_code = 54


class DeviceTooSmallError(PhiforgeError):
    """A device's memory cannot hold the variant with the context that its profile promises."""

    exit_code = 55


class NoCandidateError(PhiforgeError):
    """A tuning could choose nothing: no candidate is within the budgets by evidence, or none of them runs."""

    exit_code = 50


# Packages.


class PackageInvalidError(PhiforgeError):
    """A folder is no phiforge package: manifest or hashes absent or unreadable."""

    exit_code = 35


class PackageTamperedError(PhiforgeError):
    """A file of the package was changed, removed or added after packaging."""

    exit_code = 36


class LeakageError(PhiforgeError):
    """Evaluation data overlaps training or calibration data, or changed since its checksum was made."""

    exit_code = 37


class UnsafePathError(PhiforgeError):
    """A path inside a manifest leaves its folder."""

    exit_code = 38


# Releases.


class ReleaseRefusedError(PhiforgeError):
    """The evidence does not allow a release; every reason is named."""

    exit_code = 56


class WaiverInvalidError(PhiforgeError):
    """A waiver has no reason, or names nothing that could be waived."""

    exit_code = 57


class PreviousReleaseError(PhiforgeError):
    """What a release is held against is none, or is of another model."""

    exit_code = 58


class DestinationError(PhiforgeError):
    """A release cannot go where it was sent: something else is there, or the form is unknown."""

    exit_code = 59


class SignatureInvalidError(PhiforgeError):
    """A signature is absent, broken, by another key or of other content."""

    exit_code = 60
