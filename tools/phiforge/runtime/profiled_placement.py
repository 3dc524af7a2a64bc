"""Which provider each node ran on, by onnxruntime's own profile of a short generation.

It is asked of DirectML, whose session is the one that onnxruntime-genai makes, with graph capture.
"""

from __future__ import annotations

import gc
import json
import tempfile
from pathlib import Path
from typing import Any

from phiforge.runtime.generate import generate
from phiforge.runtime.variant import open_variant

# What marks a node's own time in a profile; its name stands before it.
_MARK = "_kernel_time"


def profiled_nodes(folder: Path, *, stand_in: bool = False) -> list[tuple[str, str, str]]:
    """Generate two tokens and return the provider, operator type and name of each node that ran, once each.

    A provider may fuse nodes, which then count as one.

    Args:
        folder: A complete variant folder.
        stand_in: Run on the CPU provider, whatever the folder promises.

    Raises:
        VariantUnusableError: The variant does not load or does not answer.
    """
    with tempfile.TemporaryDirectory() as name:
        opened = open_variant(folder, stand_in=stand_in, session_options={"enable_profiling": str(Path(name) / "run")})
        generate(opened, [[0]], max_new_tokens=2)
        del opened
        gc.collect()  # the profile is written when the session ends
        events: list[dict[str, Any]] = []
        for path in sorted(Path(name).glob("*.json")):
            events += json.loads(path.read_text(encoding="utf-8"))
    found = {
        (event["args"]["provider"], event["args"]["op_name"], event["name"].removesuffix(_MARK))
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(_MARK)
    }
    return sorted(found)
