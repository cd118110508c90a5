"""Image preprocessing as transformers writes it, `preprocessor_config.json`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tcvit_jax.errors import InputError, cannot_read, invalid
from tcvit_jax.models.image_preprocessing import Preprocessing, check_preprocessing

INTERPOLATION_OF_RESAMPLE = {2: "bilinear", 3: "bicubic"}
RESCALE_FACTOR = 1 / 255
MAX_SIZE = 16_384
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class _Defaults:
    """Values of an image processor where a file has none.

    Attributes:
        size: Size of the resized image.
        resample: Filter of Pillow.
        crop_size: Size of the center crop, or None for no crop.
        mean: Mean per channel.
        std: Standard deviation per channel.
        is_square: Whether a `size` that is one number is the length of both sides, and not of the shorter one.
    """

    size: Mapping[str, int]
    resample: int
    crop_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_square: bool


_SQUARE = {"height": 224, "width": 224}
_SHORTEST = {"shortest_edge": 224}
# Image processors by their names without the suffix.
_PROCESSORS = {
    "ViT": _Defaults(_SQUARE, 2, None, _HALF, _HALF, is_square=True),
    "DeiT": _Defaults({"height": 256, "width": 256}, 3, 224, _HALF, _HALF, is_square=True),
    "Bit": _Defaults(_SHORTEST, 3, 224, *_CLIP, is_square=False),
    "CLIP": _Defaults(_SHORTEST, 3, 224, *_CLIP, is_square=False),
    "Siglip": _Defaults(_SQUARE, 3, None, _HALF, _HALF, is_square=False),
    "DINOv3ViT": _Defaults(_SQUARE, 2, None, *_IMAGENET, is_square=True),
}
_PROCESSOR_OF_MODEL = {
    "vit": "ViT", "vit_mae": "ViT", "deit": "DeiT", "dinov2": "Bit", "dinov2_with_registers": "Bit",
    "clip": "CLIP", "clip_vision_model": "CLIP", "siglip": "Siglip", "siglip_vision_model": "Siglip",
    "dinov3_vit": "DINOv3ViT",
}  # fmt: skip
# The suffixes select an implementation; that of a feature extractor is the former name.
_SUFFIX = re.compile(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$")
# Fields that would change the images, and the only values with which they do not.
_INACTIVE: dict[str, tuple[Any, ...]] = {
    "crop_pct": (None,), "do_pad": (None, False), "pad_size": (None,), "size_divisor": (None,),
    "size_divisibility": (None,), "use_square_size": (None, False), "do_rescale": (None, True),
    "do_resize": (None, True),
}  # fmt: skip
# Fields without an effect on the pixels of RGB images.
_IGNORED = frozenset({
    "image_processor_type", "feature_extractor_type", "processor_class", "image_seq_length", "data_format",
    "input_data_format", "device", "return_tensors", "disable_grouping", "default_to_square", "auto_map",
    "do_convert_rgb", "_valid_processor_keys", "transformers_version", "name_or_path", "_name_or_path",
})  # fmt: skip
_READ = frozenset({
    "size", "resample", "do_center_crop", "crop_size", "rescale_factor", "do_normalize", "image_mean", "image_std",
})  # fmt: skip
_NAMES = _IGNORED | _READ | _INACTIVE.keys()


def read_processor(processor: Mapping[str, Any], model_type: str, path: Path) -> tuple[Preprocessing, tuple[int, int]]:
    """Return the preprocessing that the configuration of an image processor describes.

    The images equal those of the image processors of transformers that use Pillow. Those that use torchvision differ
    from both by up to 2 / 255, before the normalization. That of DINOv3 resizes images without rounding them to uint8,
    and differs by less than 1 / 255.

    Args:
        processor: Content of `preprocessor_config.json`. A missing value, or null, is the default of its type.
        model_type: Type of the model, for a configuration that has no type.
        path: Path of the file, for error messages.

    Returns:
        The preprocessing, and the size `(height, width)` of its images.

    Raises:
        InputError: The type or a field is unknown, or a field asks for something else than a resize to a fixed size, a
            center crop, and a normalization. The message names the field.
    """
    defaults = _PROCESSORS[_type_of(processor, model_type, path)]
    for name, value in processor.items():
        if name in _INACTIVE and value not in _INACTIVE[name]:
            raise _error(path, name, value, _text(_INACTIVE[name][-1]))
        is_off = value is None or (value is False and name.startswith("do_"))
        if name not in _NAMES and not is_off:
            raise _error(path, name, value, "absent", "its effect on the images is unknown")
    values = {name: value for name, value in processor.items() if value is not None}
    if not math.isclose(_number(values, "rescale_factor", RESCALE_FACTOR, path), RESCALE_FACTOR, rel_tol=1e-6):
        raise _error(path, "rescale_factor", values["rescale_factor"], "1/255")
    interpolation = INTERPOLATION_OF_RESAMPLE.get(_resample(values, defaults, path))
    if interpolation is None:
        raise _error(path, "resample", values["resample"], "2 (bilinear) or 3 (bicubic)")
    crop = _crop_size(values, defaults, path)
    edge, sides = _size(values, defaults, path)
    img_size = crop or sides
    if img_size is None:
        raise _error(path, "do_center_crop", False, f"True with size={{'shortest_edge': {edge}}}", "sizes would differ")
    mean, std = _normalization(values, defaults, path)
    geometry = _geometry(edge, sides, img_size, interpolation, path)
    try:
        check_preprocessing({"mean": mean, "std": std}, "image_")
        return Preprocessing(mean, std, *geometry), img_size
    except InputError as error:
        raise cannot_read(path, str(error)) from error


def write_processor(preprocessing: Preprocessing, img_size: tuple[int, int]) -> dict[str, Any]:
    """Return the configuration of an image processor of transformers. `read_processor` is the inverse.

    transformers always rounds the offset of a crop down, so a crop with `crop_rounding="even"` can be one pixel off:
    for margins of 3, 7, 11 and so on.

    Args:
        preprocessing: The preprocessing.
        img_size: Size `(height, width)` of the images of the model.

    Returns:
        Content of `preprocessor_config.json`.

    Raises:
        InputError: The image is not square, and is not resized to exactly its size.
    """
    pct, resize = preprocessing.crop_pct, preprocessing.resize
    height, width = (resize or max(1, math.floor(side / pct)) for side in img_size)
    is_exact = (height, width) == img_size and preprocessing.crop_mode == "squash"
    if preprocessing.crop_mode == "center" and img_size[0] != img_size[1] and not resize:
        raise invalid(f"img_size={img_size}", "transformers requires crop_mode='squash', resize, or equal sides")
    is_center = preprocessing.crop_mode == "center"
    crop = {"height": img_size[0], "width": img_size[1]}
    resample = next(key for key, name in INTERPOLATION_OF_RESAMPLE.items() if name == preprocessing.interpolation)
    kind = "Bit" if is_center else "ViT" if is_exact else "DeiT"
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": height} if is_center else {"height": height, "width": width},
        "resample": resample,
        "do_center_crop": not is_exact,
        **({} if is_exact else {"crop_size": crop}),
        "do_rescale": True,
        "rescale_factor": RESCALE_FACTOR,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
        "do_convert_rgb": True,
    }  # fmt: skip


def _type_of(processor: Mapping[str, Any], model_type: str, path: Path) -> str:
    """Return the key of `_PROCESSORS` of a configuration."""
    for field in ("image_processor_type", "feature_extractor_type"):
        value = processor.get(field)
        if value is None:
            continue
        name = _SUFFIX.sub("", value) if isinstance(value, str) else ""
        if name not in _PROCESSORS:
            raise _error(path, field, value, f"one of {', '.join(f'{each}ImageProcessor' for each in _PROCESSORS)}")
        return name
    if model_type not in _PROCESSOR_OF_MODEL:
        raise _error(path, "image_processor_type", None, f"set for model_type={model_type!r}")
    return _PROCESSOR_OF_MODEL[model_type]


def _resample(values: Mapping[str, Any], defaults: _Defaults, path: Path) -> int:
    value = values.get("resample", defaults.resample)
    if type(value) is not int:
        raise _error(path, "resample", value, "2 (bilinear) or 3 (bicubic)")
    return value


def _size(values: Mapping[str, Any], defaults: _Defaults, path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """Return the length of the shorter side of the resized image, or the lengths of both sides."""
    value: Any = values.get("size", defaults.size)
    if _is_length(value):
        value = {"height": value, "width": value} if _is_square(values, defaults) else {"shortest_edge": value}
    elif isinstance(value, list) and len(cast("list[Any]", value)) == 2:
        value = dict(zip(("height", "width"), cast("list[Any]", value), strict=True))
    if isinstance(value, Mapping):
        lengths = {name: each for name, each in cast("Mapping[str, Any]", value).items() if each is not None}
        if all(map(_is_length, lengths.values())):
            if set(lengths) == {"shortest_edge"}:
                return lengths["shortest_edge"], None
            if set(lengths) == {"height", "width"}:
                return None, (lengths["height"], lengths["width"])
    raise _error(path, "size", values.get("size"), "a length, height and width, or shortest_edge")


def _is_square(values: Mapping[str, Any], defaults: _Defaults) -> bool:
    value = values.get("default_to_square", defaults.is_square)
    return value if isinstance(value, bool) else defaults.is_square


def _crop_size(values: Mapping[str, Any], defaults: _Defaults, path: Path) -> tuple[int, int] | None:
    """Return the size of the center crop, or None for no crop."""
    if not _flag(values, "do_center_crop", defaults.crop_size is not None, path):
        return None
    value: Any = values.get("crop_size", defaults.crop_size)
    sides: tuple[Any, ...] = ()
    if isinstance(value, Mapping):
        lengths = {name: each for name, each in cast("Mapping[str, Any]", value).items() if each is not None}
        sides = (lengths["height"], lengths["width"]) if set(lengths) == {"height", "width"} else ()
    elif isinstance(value, list):
        sides = tuple(cast("list[Any]", value))
    else:
        sides = (value, value)
    if len(sides) != 2 or not all(map(_is_length, sides)):
        raise _error(path, "crop_size", value, "a length, or height and width")
    return sides[0], sides[1]


def _geometry(
    edge: int | None, sides: tuple[int, int] | None, img_size: tuple[int, int], interpolation: str, path: Path
) -> tuple[float, str, str, int | None, str]:
    """Return the crop fraction, interpolation, crop mode, explicit resize and rounding of a `Preprocessing`."""
    if sides == img_size:
        return 1.0, interpolation, "squash", None, "floor"
    if sides is not None and sides[0] != sides[1]:
        raise cannot_read(path, f"size={sides}: must be square, or equal to crop_size={img_size}")
    length = edge if edge is not None else sides[0] if sides else 0
    crop_mode = "center" if edge is not None else "squash"
    pct = img_size[0] / length
    # The length itself where the fraction does not give it exactly.
    is_exact = all(math.floor(side / pct) == length for side in img_size)
    return pct, interpolation, crop_mode, None if is_exact else length, "floor"


def _normalization(
    values: Mapping[str, Any], defaults: _Defaults, path: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel."""
    if not _flag(values, "do_normalize", True, path):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    channels = (values.get("image_mean", defaults.mean), values.get("image_std", defaults.std))
    # One number stands for all channels.
    mean, std = ((each,) * 3 if isinstance(each, int | float) else each for each in channels)
    return mean, std


def _flag(values: Mapping[str, Any], name: str, default: bool, path: Path) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise _error(path, name, value, "true or false")
    return value


def _number(values: Mapping[str, Any], name: str, default: float, path: Path) -> float:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1:
        raise _error(path, name, value, "a number in [-1, 1]")
    return float(value)


def _is_length(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIZE


def _text(value: object) -> str:
    return {True: "true", False: "false", None: "null"}[cast("bool | None", value)]


def _error(path: Path, name: str, value: object, condition: str, hint: str = "") -> InputError:
    return cannot_read(path, f"{name}={value!r}: must be {condition}", hint)
