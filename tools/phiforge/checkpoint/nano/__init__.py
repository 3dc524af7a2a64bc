"""phi-4-nano, the small trained Phi-4 model that ships inside the package.

`CHECKPOINT_DIR` holds the checkpoint in Hugging Face's form, `EVAL_DIR` its held-out tasks and texts. The generator,
the training script and the rescaling that made them are the modules next to this file. Nothing heavy is imported here.
"""

from pathlib import Path

CHECKPOINT_DIR = Path(__file__).resolve().parent / "phi-4-nano"
EVAL_DIR = Path(__file__).resolve().parent / "eval"

__all__ = ["CHECKPOINT_DIR", "EVAL_DIR"]
