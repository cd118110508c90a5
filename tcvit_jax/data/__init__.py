"""Input pipeline: from files to batches of uint8 images, in NumPy and Pillow.

A *source* returns labeled images by index, a *transform* resizes one image to the input size of the network and, for
training, augments it, and the *pipeline* batches the results:

    source = open_source("digits", "train")
    for batch in train_batches(source, TrainTransform((16, 16), channels=1), batch_size=128, seed=0):
        ...

Nothing here imports JAX or TensorFlow. Importing the package does no work, because every worker process imports it
again.
"""

from tcvit_jax.data.label_maps import LabelMaps
from tcvit_jax.data.operations import Operation
from tcvit_jax.data.pipeline import Batch, eval_batches, train_batches
from tcvit_jax.data.randaugment import RandAugment
from tcvit_jax.data.rows import TokenLabeling
from tcvit_jax.data.sources import Example, ImageLike, NamedSource, PairSource, Source, describe_skipped, open_source
from tcvit_jax.data.transforms import Augmentation, EvalTransform, TrainTransform
from tcvit_jax.data.workers import describe_workers, resolve_workers

__all__ = [
    "Augmentation",
    "Batch",
    "EvalTransform",
    "Example",
    "ImageLike",
    "LabelMaps",
    "NamedSource",
    "Operation",
    "PairSource",
    "RandAugment",
    "Source",
    "TokenLabeling",
    "TrainTransform",
    "describe_skipped",
    "describe_workers",
    "eval_batches",
    "open_source",
    "resolve_workers",
    "train_batches",
]
