"""Images in, batches out: sources, transforms and the Grain pipeline. Imports no JAX, and no TensorFlow."""

from tcvit_jax.data.pipeline import Batch, eval_batches, train_batches
from tcvit_jax.data.sources import Example, Source, open_source
from tcvit_jax.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "Batch", "EvalTransform", "Example", "Source", "TrainTransform", "eval_batches", "open_source", "train_batches",
]  # fmt: skip
