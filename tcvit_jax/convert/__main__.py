"""Published weights to a checkpoint of ours, and a checkpoint of ours to weights for timm.

python -m tcvit_jax.convert deit_small_patch16_224.safetensors --model deit_small_patch16_224 --out ckpt
python -m tcvit_jax.convert hf-hub:timm/deit_small_patch16_224.fb_in1k --out ckpt
python -m tcvit_jax.convert runs/deit_s_gtp --out deit_s_gtp.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Flags to the library; a mistake is one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m tcvit_jax.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help=".safetensors, .npz, .pth, hf-hub:timm/NAME, or a checkpoint directory")
    parser.add_argument("--out", required=True, help="a new directory; of a checkpoint, a new .safetensors file")
    parser.add_argument("--model", help="timm's name, with or without tag; the hub's repositories bring theirs")
    parser.add_argument(
        "--img-size", help="another resolution, 384 or 384x224 (height, width): positions are resampled"
    )
    parser.add_argument("--num-classes", type=int, help="classes of the model, where they are not those of its name")
    parser.add_argument("--new-head", action="store_true", help="leave out the classifier; the model's starts at zero")
    parser.add_argument(
        "--entry", help="of a training checkpoint, which tensors: state_dict_ema, state_dict, model, ..."
    )
    parser.add_argument("--photo", help="an image to compare with timm on; by default one that scikit-learn brings")
    parser.add_argument("--no-parity", action="store_true", help="do not compare with timm, where it is installed")
    flags = parser.parse_args(arguments)

    from tcvit_jax import InputError
    from tcvit_jax.convert.command import to_checkpoint, to_safetensors

    try:
        if flags.out.endswith(".safetensors"):
            unused = [
                flag for flag in ("model", "img_size", "num_classes", "new_head", "photo") if getattr(flags, flag)
            ]
            if unused:
                raise InputError(
                    f"--{unused[0].replace('_', '-')} is not for writing {flags.out!r}, which takes a model as it is"
                )
            print(to_safetensors(flags.source, flags.out, flags.entry))
        else:
            overrides = {"img_size": _size(flags.img_size), "num_classes": flags.num_classes}
            print(
                to_checkpoint(
                    flags.source, Path(flags.out), flags.model, new_head=flags.new_head, entry=flags.entry,
                    overrides={key: value for key, value in overrides.items() if value is not None},
                    compare=not flags.no_parity, photo=flags.photo,
                )
            )  # fmt: skip
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _size(text: str | None) -> int | tuple[int, int] | None:
    from tcvit_jax import InputError

    if text is None:
        return None
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise InputError(f"--img-size {text!r} should be like 384 or 384x224")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
