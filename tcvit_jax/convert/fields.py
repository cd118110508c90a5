"""Fields of the `config.json` files of transformers, with their defaults, and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tcvit_jax.convert.problems import shorten
from tcvit_jax.errors import InputError, cannot_read

_VIT: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3,
    "qkv_bias": True,
}  # fmt: skip
_DINOV2: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4.0, "hidden_act": "gelu",
    "layer_norm_eps": 1e-6, "image_size": 224, "patch_size": 14, "num_channels": 3, "qkv_bias": True,
    "layerscale_value": 1.0, "use_swiglu_ffn": False,
}  # fmt: skip
_CLIP: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "projection_dim": 512, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}  # fmt: skip
_SIGLIP: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_channels": 3, "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}  # fmt: skip
_DINOV3: dict[str, Any] = {
    "patch_size": 16, "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6,
    "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rope_theta": 100.0, "image_size": 224, "num_channels": 3,
    "query_bias": True, "key_bias": False, "value_bias": True, "proj_bias": True, "mlp_bias": True,
    "layerscale_value": 1.0, "use_gated_mlp": False, "num_register_tokens": 0,
}  # fmt: skip

# The fields that define a model, with their defaults, which files may leave out.
FIELDS: dict[str, dict[str, Any]] = {
    "vit": _VIT,
    "deit": _VIT,
    "vit_mae": _VIT,
    "dinov2": _DINOV2,
    "dinov2_with_registers": {**_DINOV2, "patch_size": 16, "num_register_tokens": 4},
    "clip_vision_model": _CLIP,
    "siglip_vision_model": _SIGLIP,
    "dinov3_vit": _DINOV3,
}
# Models with a text encoder beside the image encoder, and the type of the image encoder.
TOWER_OF = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
# Models whose sizes must be integers; those of the others may also be pairs of height and width.
INTEGER_SIZES = frozenset(TOWER_OF.values())
# The activations that equal one of this project.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "quick_gelu": "quick_gelu", "silu": "silu", "swish": "silu", "relu": "relu",
    **dict.fromkeys(
        ("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_new", "gelu_fast", "gelu_accurate"), "gelu_tanh"
    ),
}  # fmt: skip
# Fields that must have this value, because others change the model.
_FIXED: dict[str, tuple[Any, ...]] = {
    "is_decoder": (False, None), "is_encoder_decoder": (False, None), "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
}  # fmt: skip
# Fields that change nothing about the outputs of a trained encoder.
_WITHOUT_EFFECT = frozenset({
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "model_type", "architectures", "dtype",
    "torch_dtype", "torchscript", "return_dict", "use_return_dict", "output_attentions", "output_hidden_states",
    "use_bfloat16", "use_cache", "chunk_size_feed_forward", "cross_attention_hidden_size", "tie_encoder_decoder",
    "tie_word_embeddings", "tied", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class",
    "prefix", "id2label", "label2id", "num_labels", "initializer_range", "initializer_factor",
    "logit_scale_init_value", "attn_implementation", "_attn_implementation", "_attn_implementation_autoset",
    "_attn_implementation_internal", "experts_implementation", "_experts_implementation", "_output_attentions",
    "gradient_checkpointing", "tf_legacy_loss", "auto_map", "custom_pipelines", "transformers.js_config",
    "max_length", "min_length", "do_sample", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "early_stopping",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "drop_path_rate",
    "pooler_output_size", "pooler_act", "encoder_stride", "mask_ratio", "norm_pix_loss",
    "decoder_num_attention_heads", "decoder_hidden_size", "decoder_num_hidden_layers", "decoder_intermediate_size",
    "apply_layernorm", "reshape_hidden_states", "return_class_token", "use_mask_token", "out_features", "out_indices",
    "_out_features", "_out_indices", "stage_names", "_num_labels",
    "pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale", "projection_dim",
})  # fmt: skip
# Larger integers and sides of images are damaged.
MAX_INTEGER, MAX_SIDE = 2**31 - 1, 16_384
# Fields of a model with two encoders that are read elsewhere, or belong to the text encoder.
COMPOSITE = ("vision_config", "vision_config_dict", "text_config", "text_config_dict", "projection_dim")


@dataclass
class Fields:
    """The fields of a config, with defaults for those that are absent.

    Attributes:
        config: The fields in the file.
        defaults: Fields that define the model.
        path: The file, for errors.
        section: Name of the nested config, such as `"vision_config."`, or empty.
    """

    config: Mapping[str, Any]
    defaults: Mapping[str, Any]
    path: Path
    section: str = ""

    def error(self, name: str, condition: str, value: Any = None) -> InputError:
        """Return the error for a field that must meet `condition`."""
        value = self.config.get(name, self.defaults.get(name)) if value is None else value
        return cannot_read(self.path, f"{self.section}{name}={shorten([repr(value)])}: must be {condition}")

    def check_names(self) -> None:
        """Check that no field changes the model in an unsupported way.

        Raises:
            InputError: A field has a value that is not supported, or another name and a value that is not null.
        """
        for name, value in self.config.items():
            if name in _FIXED:
                if not any(value is each or (value == each and isinstance(value, dict)) for each in _FIXED[name]):
                    raise self.error(name, f"{_FIXED[name][0]!r}", value)
            elif value is None or name in self.defaults or name in _WITHOUT_EFFECT or name.endswith("_token_id"):
                continue
            elif name == "head_dim" and self.defaults:
                heads = self.integer("num_attention_heads")
                if isinstance(value, bool) or value != self.integer("hidden_size") // heads:
                    raise self.error(name, "hidden_size / num_attention_heads", value)
            else:
                raise self.error(name, "absent, because it is not supported", value)

    def _value(self, name: str) -> Any:
        return self.config.get(name, self.defaults.get(name))

    def integer(self, name: str, least: int = 1) -> int:
        """Return an integer field."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_INTEGER:
            raise self.error(name, f"an integer >= {least}", value)
        return value

    def number(self, name: str) -> float:
        """Return a field that is a positive finite number."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_INTEGER:
            raise self.error(name, "a number > 0", value)
        return float(value)

    def boolean(self, name: str) -> bool:
        """Return a boolean field."""
        value = self._value(name)
        if not isinstance(value, bool):
            raise self.error(name, "true or false", value)
        return value

    def activation(self, name: str = "hidden_act") -> str:
        """Return the name of an activation of this project."""
        value = self._value(name)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.error(name, f"one of {', '.join(sorted(ACTIVATIONS))}", value)
        return ACTIVATIONS[value]

    def size(self, name: str, *, is_integer: bool) -> tuple[int, int]:
        """Return a field that is an integer, or a pair of height and width."""
        value = self._value(name)
        sides = cast("Sequence[Any]", value) if isinstance(value, list | tuple) and not is_integer else (value, value)
        if len(sides) == 2 and all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
            height, width = cast("tuple[int, int]", tuple(sides))
            return height, width
        condition = f"an integer in [1, {MAX_SIDE}]"
        raise self.error(name, condition if is_integer else f"{condition}, or a list of height and width", value)
