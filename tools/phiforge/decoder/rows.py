"""What the decoder needs of weights: to read them by rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Rows(Protocol):
    """Weights that can be read by rows, such as `phiforge.checkpoint.weights.Weights`."""

    def read(self, name: str) -> NDArray[np.float32]:
        """A whole tensor as float32."""

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows of a tensor as float32."""
