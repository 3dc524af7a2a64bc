"""Whether a provider takes a graph, told from a table of its kernels before anything is built.

Only types, attributes and the sizes of constants are read, so weights may be placeholders. What onnxruntime does to a
graph that provider and CPU share is followed too: which nodes it moves to the CPU, and what it copies.
"""

from phiforge.graph.conformance.check import Conformance, Crossing, Misfit, check_conformance, require_conformance
from phiforge.graph.conformance.table import ProviderTable, load_provider

__all__ = [
    "Conformance",
    "Crossing",
    "Misfit",
    "ProviderTable",
    "check_conformance",
    "load_provider",
    "require_conformance",
]
