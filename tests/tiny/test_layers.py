"""A calibrated quantization goes on at the layer where it was killed, and ends with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from phiforge import needs
from phiforge.decoder import decoder
from phiforge.hashing import hash_files
from phiforge.olive.calibrate_checkpoint import calibrate_checkpoint
from phiforge.olive.quantize_layers import LayerWork
from phiforge.pipeline import QuantizeOptions
from phiforge.validation import original

TEXT = "Ana has 3 apples and gets 4 more. What is 12 + 30? It is 42. Ben lives in a small town. "
KILLED_BEFORE = 3


class KilledError(Exception):
    """Stands for a kill between two layers."""


def quantize(checkpoint: Path, folder: Path, work: Path, algorithm: str, stop: int | None = None) -> list[int]:
    """Quantize into a new folder and return the layers that were begun; die before layer `stop`."""
    begun: list[int] = []

    def progress(done: int, _total: int) -> None:
        if done == stop:
            raise KilledError
        begun.append(done)

    options = QuantizeOptions(
        type="PhiforgeQuantize", algorithm=algorithm, bits=4, block_size=64, symmetric=False, calibration_tokens=400
    )
    folder.mkdir()
    ids = AutoTokenizer.from_pretrained(checkpoint)(TEXT * 8)["input_ids"]
    calibrate_checkpoint(
        checkpoint, folder, options, [ids[:150], ids[150:300]], work=work, threads=1, progress=progress
    )
    return begun


@pytest.mark.parametrize("algorithm", ["gptq", pytest.param("awq", marks=pytest.mark.long)])
def test_a_killed_quantization_goes_on_at_its_layer(nano_checkpoint: Path, tmp_path: Path, algorithm: str) -> None:
    assert quantize(nano_checkpoint, tmp_path / "whole", tmp_path / "w1", algorithm) == list(range(7))
    with pytest.raises(KilledError):
        quantize(nano_checkpoint, tmp_path / "killed", tmp_path / "w2", algorithm, stop=KILLED_BEFORE)
    assert quantize(nano_checkpoint, tmp_path / "resumed", tmp_path / "w2", algorithm) == [3, 4, 5, 6]
    assert hash_files(tmp_path / "resumed") == hash_files(tmp_path / "whole")
    assert not (tmp_path / "w2").exists()


@pytest.mark.long
def test_layers_without_their_hidden_states_are_begun_again(nano_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        quantize(nano_checkpoint, tmp_path / "killed", tmp_path / "work", "gptq", stop=KILLED_BEFORE)
    (tmp_path / "work" / f"hidden-{KILLED_BEFORE % 2}.f32").unlink()
    assert LayerWork(folder=tmp_path / "work").layers_done((300, 256)) == 0
    assert quantize(nano_checkpoint, tmp_path / "again", tmp_path / "work", "gptq")[0] == 0


def test_the_prediction_knows_the_references_sizes() -> None:
    """needs.py is pure and cannot import them from torch's modules."""
    assert needs.LOGIT_ROWS == decoder.HEAD_ROWS
    assert needs.DOUBLE_ROWS == original.CHUNK_ROWS
    assert needs.HEAD_BLOCK_BYTES == 2 * 4 * decoder.BLOCK_WEIGHTS
