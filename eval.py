"""Evaluate a checkpoint: `python eval.py --checkpoint runs/digits_gtp`; see `tcvit_jax.eval`."""

import sys

from tcvit_jax.eval import main

if __name__ == "__main__":
    sys.exit(main())
