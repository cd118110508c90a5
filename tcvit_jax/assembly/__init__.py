"""Construction of models, weights and datasets from the sections of a configuration.

Training, evaluation, the benchmark and the tools share these functions.
"""

from tcvit_jax.assembly.architecture import build_model, build_preprocessing, load_weights, read_origin, reduce
from tcvit_jax.assembly.datasets import (
    EvalData,
    TrainData,
    build_eval_data,
    build_train_data,
    describe_reading,
    open_split,
)
from tcvit_jax.assembly.pretrained import Pretrained, from_checkpoint, from_flags, from_weights
from tcvit_jax.assembly.records import ACCEPT_FLAG, DataRecord, Origin, SplitRecord

__all__ = [
    "ACCEPT_FLAG", "DataRecord", "EvalData", "Origin", "Pretrained", "SplitRecord", "TrainData", "build_eval_data",
    "build_model", "build_preprocessing", "build_train_data", "describe_reading", "from_checkpoint", "from_flags",
    "from_weights",
    "load_weights", "open_split", "read_origin", "reduce",
]  # fmt: skip
