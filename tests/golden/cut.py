"""Cuts the small golden file out of the shared one: README.md beside it.

CTJAX_SHARED=FOLDER python -m tests.golden.cut
"""

import os
import pathlib

import numpy as np

SOURCE = "golden/network/uresnet.npz"
TARGET = pathlib.Path(__file__).with_name("uresnet_small.npz")
NUM_PIXELS = 256
DROPPED = ("grad/focal/", "grad/even/", "state_after_adam/", "adam_losses")


def cut(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns what is kept of a golden file; `logits_*` become [B, P, K, pixels]."""
    with np.load(path) as file:
        kept = {n: file[n] for n in file.files if not n.startswith(DROPPED)}
    num_pixels = kept["input"][0, 0].size
    random = np.random.default_rng(0)
    pixels = np.sort(random.choice(num_pixels, NUM_PIXELS, replace=False))
    kept["pixels"] = pixels.astype(np.int32)
    for name in ("logits_eval", "logits_train"):
        logits = kept[name]
        kept[name] = logits.reshape(*logits.shape[:3], -1)[..., pixels]
    return kept


if __name__ == "__main__":
    shared = pathlib.Path(os.environ["CTJAX_SHARED"])
    np.savez_compressed(TARGET, **cut(shared / SOURCE))
