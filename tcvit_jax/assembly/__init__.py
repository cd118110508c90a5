"""From the sections of a configuration to what they describe: models, their weights, and data as the models take it.

Training, evaluation, the benchmark and the tools build what they work on here, and nothing here computes.
"""

from tcvit_jax.assembly.architecture import build_model, build_preprocessing, load_weights, reduce
from tcvit_jax.assembly.datasets import EvalData, TrainData, build_eval_data, build_train_data
from tcvit_jax.assembly.pretrained import Pretrained, from_checkpoint, from_weights

__all__ = [
    "EvalData", "Pretrained", "TrainData", "build_eval_data", "build_model", "build_preprocessing", "build_train_data",
    "from_checkpoint", "from_weights", "load_weights", "reduce",
]  # fmt: skip
