"""Reading a JSON object whose fields may be absent or absurd, and collecting every fault instead of stopping."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

JsonObject = Mapping[str, object]


class RepeatedKeysError(ValueError):
    """An object of a JSON file has the same key more than once."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__(f"it has {', '.join(keys)} more than once")
        self.keys = keys


def read_json_object(path: Path, *, unique: bool = False) -> JsonObject:
    """Reads a file that holds one JSON object.

    Args:
        path: The file.
        unique: Whether a key that comes twice in one object is an error; otherwise the last one counts.

    Raises:
        RepeatedKeysError: A key comes twice and `unique` is asked for.
        ValueError: The file is not UTF-8, not JSON, or holds something else than an object.
    """
    try:
        content: object = json.loads(path.read_bytes(), object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a JSON {type(content).__name__}, not an object")
    return content


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    counts = Counter(key for key, _ in pairs)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise RepeatedKeysError(repeated)
    return dict(pairs)


class Fields:
    """Typed access to the fields of one JSON object; what is wrong with them ends up in `faults`.

    A getter that finds a fault notes it and returns a harmless value, so that the remaining fields are still looked at.
    """

    def __init__(self, content: JsonObject) -> None:
        self._content = content
        self.faults: list[str] = []

    def get(self, name: str) -> object:
        """Gives the raw value, None when absent."""
        return self._content.get(name)

    def positive_int(self, name: str, default: int | None = None, limit: int = 2**31 - 1) -> int:
        """Gives a whole number from 1 to the limit; without a default the field must be there."""
        value = self._content.get(name)
        if value is None and default is not None:
            return default
        if value is None:
            self.faults.append(f"{name} is absent")
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.faults.append(f"{name} is {value!r}, not a whole number above zero")
        elif value > limit:
            self.faults.append(f"{name} is {value}, above the limit of {limit}")
        else:
            return value
        return 1

    def positive_float(self, name: str, default: float) -> float:
        """Gives a finite number above zero."""
        value = self._content.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < sys.float_info.max:
            self.faults.append(f"{name} is {value!r}, not a finite number above zero")
            return default
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        """Gives true or false."""
        value = self._content.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.faults.append(f"{name} is {value!r}, neither true nor false")
            return default
        return value

    def ids(self, name: str) -> set[int]:
        """Gives token ids written as one number or as a list of them; an empty set when absent."""
        value = self._content.get(name)
        if value is None:
            return set()
        values: list[object] = value if isinstance(value, list) else [value]
        found = {item for item in values if isinstance(item, int) and not isinstance(item, bool) and item >= 0}
        if len(found) != len(set(map(str, values))):
            self.faults.append(f"{name} is {value!r}, not a token id or a list of token ids")
        return found
