"""The data room: from files to batches of uint8 images, in NumPy and Pillow.

A *source* gives labeled images by index, a *transform* brings one image to the network's size, augmented where it is
for training, and the *pipeline* makes batches of them:

    source = open_source("digits", "train")
    for batch in train_batches(source, TrainTransform((16, 16), channels=1), batch_size=128, seed=0):
        ...

Nothing here imports JAX or TensorFlow, and importing the room does no work: its worker processes do it again.
"""

from tcvit_jax.data.label_maps import LabelMaps
from tcvit_jax.data.operations import Operation
from tcvit_jax.data.pipeline import Batch, eval_batches, train_batches
from tcvit_jax.data.randaugment import RandAugment
from tcvit_jax.data.rows import TokenLabeling
from tcvit_jax.data.sources import Example, ImageLike, Source, open_source
from tcvit_jax.data.transforms import Augmentation, EvalTransform, TrainTransform

__all__ = [
    "Augmentation",
    "Batch",
    "EvalTransform",
    "Example",
    "ImageLike",
    "LabelMaps",
    "Operation",
    "RandAugment",
    "Source",
    "TokenLabeling",
    "TrainTransform",
    "eval_batches",
    "open_source",
    "train_batches",
]
