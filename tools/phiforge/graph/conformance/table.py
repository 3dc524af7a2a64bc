"""The schema of what a provider's kernels take: a TOML file in `targets/providers/`."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from phiforge import errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

# In a row, what restricts nothing.
ANY = "any"
_TOLD = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}
DTYPES = {_TOLD.get(dtype, dtype.name.lower()): dtype for dtype in ir.DataType}

Text = Annotated[str, Field(min_length=1)]
Version = Annotated[int, Field(ge=1)]
Place = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Base of a table's parts: frozen, unknown keys forbidden, no silent conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RuntimeFacts(Section):
    """The package whose kernels are told, and what it holds."""

    package: Text
    version: Text
    holds: Text


class Source(Section):
    """Where facts of the table are from."""

    facts: Text
    at: Text


class Limit(Section):
    """What an attribute may be, if it is given: one of `values`, or a multiple of another one."""

    values: Annotated[list[int | float | str], Field(min_length=1)] | None = None
    multiple_of: Text | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.values is None) == (self.multiple_of is None):
            raise ValueError("give either values or multiple_of")
        return self


class Kernel(Section):
    """One row: what the kernels of an operator take, for some versions of its schema.

    `inputs` and `outputs` hold an entry for each place, of dtypes or groups of them; the last holds for all that
    follow. `cpu_inputs` are read, and `cpu_outputs` left, in CPU memory. Without the provider options in `needs` the
    row does not hold.
    """

    name: Text
    domain: str = ""
    since: Annotated[list[Version], Field(min_length=1)]
    inputs: Annotated[list[Text], Field(min_length=1)]
    outputs: Annotated[list[Text], Field(min_length=1)]
    attributes: dict[str, Limit] = {}
    required_inputs: list[Place] = []
    absent_inputs: list[Place] = []
    absent_outputs: list[Place] = []
    cpu_inputs: list[Place] = []
    cpu_outputs: list[Place] = []
    needs: dict[str, str] = {}


class ProviderTable(Section):
    """What a provider's kernels take.

    `provider` is its name in genai_config. `control_flow` lists the control flow that a session may hold.
    `moves_shapes` says whether what is computed from shapes alone goes to the CPU. `dtypes` names groups of dtypes.
    """

    provider: Text
    execution_provider: Text
    control_flow: list[str]
    moves_shapes: bool
    runtime: RuntimeFacts
    source: Annotated[list[Source], Field(min_length=1)]
    dtypes: dict[str, list[str]] = {}
    operator: Annotated[list[Kernel], Field(min_length=1)]
    _options: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _names_dtypes(self) -> Self:
        for group, names in self.dtypes.items():
            if group == ANY or group in DTYPES:
                raise ValueError(f"dtypes.{group}: no name for a group, it has a meaning already")
            if unknown := sorted(set(names) - DTYPES.keys()):
                raise ValueError(f"dtypes.{group}: no dtypes: {', '.join(unknown)}")
        for row in self.operator:
            named = {name for entry in (*row.inputs, *row.outputs) for name in entry.split()}
            if unknown := sorted(named - {*DTYPES, *self.dtypes, ANY}):
                raise ValueError(f"operator {row.name}: neither dtypes nor groups of them: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _has_one_row_for_a_version(self) -> Self:
        seen = set[tuple[object, ...]]()
        for row in self.operator:
            for since in row.since:
                key = (row.domain, row.name, since, *sorted(row.needs.items()))
                if key in seen:
                    raise ValueError(f"operator {row.name}: two rows for version {since}")
                seen.add(key)
        return self

    @property
    def options(self) -> Mapping[str, str]:
        """The provider options that sessions are made with; none unless `under` set them."""
        return self._options

    def under(self, options: Mapping[str, str]) -> ProviderTable:
        """The table for sessions that are made with these provider options."""
        table = self.model_copy()
        table._options = dict(options)
        return table

    def expand(self, entry: str) -> frozenset[ir.DataType] | None:
        """The dtypes that an entry of a row stands for; None if it restricts nothing."""
        names = entry.split()
        if ANY in names:
            return None
        return frozenset(DTYPES[dtype] for name in names for dtype in self.dtypes.get(name, [name]))


def load_provider(path: Path) -> ProviderTable:
    """Read a provider's table.

    Raises:
        ProfileInvalidError: The file is no TOML or breaks the schema; the message lists every fault.
    """
    try:
        return ProviderTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _invalid(path, str(error)) from error
    except ValidationError as error:
        told = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise _invalid(path, "; ".join(fault.removeprefix(": ") for fault in told)) from error


def dtype_name(dtype: ir.DataType) -> str:
    """A dtype as tables call it."""
    return _TOLD.get(dtype, dtype.name.lower())


def _invalid(path: Path, why: str) -> errors.ProfileInvalidError:
    return errors.ProfileInvalidError(
        f"The provider table {path.name} is not valid.",
        why=why,
        fix="Correct the keys named; docs/conformance.md tells what a table holds.",
    )
