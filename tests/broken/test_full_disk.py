"""A disk that fills up half way: one message, nothing half-written, and the same command goes on afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broken.checkpoints import make_checkpoint
from phiforge import errors

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("full_disk.sh")


@pytest.mark.long
def test_disk_fills_up_half_way(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    checkpoint = make_checkpoint(tmp_path / "small", hidden_size=128)
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"id": "a", "text": "one two three four"}\n', encoding="utf-8")
    # A mount namespace of its own, so that no other process sees the small disk.
    command = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        str(SCRIPT),
        str(disk),
        sys.executable,
        str(checkpoint),
        str(texts),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    told = done.stdout + done.stderr
    assert f"first: {errors.DiskFullError.exit_code}" in told, told
    assert "The disk filled up during the work" in told
    assert "Traceback" not in told
    assert "left:" not in told
    assert any(f"second: {code}" in told for code in (0, 3, 4)), told
