"""The graph that a build would make, without weights: what it holds is known in seconds, whatever the model's size."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from phiforge.checkpoint.config import load_config
from phiforge.checkpoint.layout import lay_out
from phiforge.checkpoint.tensors import expected_tensors
from phiforge.graph.bind import QuantizedWeights
from phiforge.graph.conformance.require import conform_to
from phiforge.olive.export_variant import make_graph
from phiforge.olive.stored import entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from phiforge.checkpoint.config import ModelConfig
    from phiforge.graph.conformance import Conformance
    from phiforge.olive.planned import PlannedGraph
    from phiforge.pipeline import ExportOptions
    from phiforge.quantize.spec import QuantSpec


def check_planned_graph(planned: PlannedGraph) -> Conformance:
    """Make a planned graph without weights and check it against what its provider has kernels for.

    Raises:
        ConformanceError: The provider would leave nodes to the CPU; the message names them.
    """
    config = replace(load_config(planned.checkpoint), tied_embeddings=planned.tied)
    return conform_to(weightless_graph(planned.checkpoint, config, planned.specs, planned.options), planned.table)


def weightless_graph(
    checkpoint: Path, config: ModelConfig, specs: Mapping[str, QuantSpec], options: ExportOptions
) -> ir.Model:
    """Return the graph of a variant, its weights placeholders that cannot be read.

    Args:
        checkpoint: The original; of its files all but the weights are read.
        config: The configuration of what is exported, as `plan.exported_config` gives it.
        specs: The planned quantization by module name.
        options: Provider and graph options.
    """
    _, slots = lay_out(dict(entries(expected_tensors(config), specs)))
    with tempfile.TemporaryDirectory() as name:
        plain, folder = Path(name) / "checkpoint", Path(name) / "variant"
        plain.mkdir()
        folder.mkdir()
        for path in checkpoint.iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                shutil.copyfile(path, plain / path.name)
        data = json.loads((plain / "config.json").read_text(encoding="utf-8"))
        data["tie_word_embeddings"] = config.tied_embeddings
        (plain / "config.json").write_text(json.dumps(data), encoding="utf-8", newline="\n")
        return make_graph(plain, folder, QuantizedWeights(slots=slots, file=None), specs, config, options)
