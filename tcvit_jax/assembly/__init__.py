"""Construction of models, weights and datasets from the sections of a configuration.

Training, evaluation, the benchmark and the tools share these functions.
"""

from tcvit_jax.assembly.architecture import build_model, build_preprocessing, load_weights, reduce
from tcvit_jax.assembly.datasets import EvalData, TrainData, build_eval_data, build_train_data
from tcvit_jax.assembly.pretrained import Pretrained, from_checkpoint, from_weights

__all__ = [
    "EvalData", "Pretrained", "TrainData", "build_eval_data", "build_model", "build_preprocessing", "build_train_data",
    "from_checkpoint", "from_weights", "load_weights", "reduce",
]  # fmt: skip
