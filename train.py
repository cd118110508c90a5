"""Train a model: `python train.py --config configs/digits_gtp.py`; see `tcvit_jax.train`."""

import sys

from tcvit_jax.train import main

if __name__ == "__main__":
    sys.exit(main())
