"""A decoder as the stages that an NPU compiles: its graphs, its configuration, and what the compiler left."""
