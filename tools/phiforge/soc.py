"""The Qualcomm chips that are compiled for: QNN's `soc_model` numbers and what stands behind them.

Each number here compiled a decoder layer of real shapes with onnxruntime-qnn 2.7.0. Names and Hexagon architectures are
those of Qualcomm's own tables, which agree: `kSocInfos` of the execution provider (github.com/onnxruntime/
onnxruntime-qnn) and `devices_and_chipsets.yaml` of AI Hub Models (github.com/qualcomm/ai-hub-models), by the keys
aliases, soc_model and htp_version. The second has SC8340XP, the Snapdragon X Plus with 8 cores, under 60 as well.
"""

from __future__ import annotations

from typing import NamedTuple


class Soc(NamedTuple):
    """A chip by its part number, and the architecture of its Hexagon NPU."""

    name: str
    architecture: str


SOC_MODELS: dict[int, Soc] = {
    30: Soc("SM8350", "v68"),  # Snapdragon 888
    36: Soc("SM8450", "v69"),  # Snapdragon 8 Gen 1
    43: Soc("SM8550", "v73"),  # Snapdragon 8 Gen 2
    57: Soc("SM8650", "v75"),  # Snapdragon 8 Gen 3
    60: Soc("SC8380XP", "v73"),  # Snapdragon X Elite
    69: Soc("SM8750", "v79"),  # Snapdragon 8 Elite
    87: Soc("SM8850", "v81"),  # Snapdragon 8 Elite Gen 5
    88: Soc("SC8480XP", "v81"),  # Snapdragon X2 Elite
}
