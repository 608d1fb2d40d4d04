"""Gives the variables of CosmicTagger's TensorFlow network the names of torch's.

Works on dictionaries of numpy arrays; TensorFlow is not imported. A variable has its
path in the object graph, `net_core/down_blocks/blocks/0/convolution/kernel`; all else
about it is as of `torch_weights`.
"""

import re
from collections.abc import Mapping

import numpy as np

_MODULES = {
    "convolution": "conv",
    "batch_norm": "norm",  # the competition's code
}

_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

_BESIDE = re.compile(
    r"_CHECKPOINTABLE_OBJECT_GRAPH|(save_counter|optimizer|global_step)(/.*)?|"
    r".*/\.OPTIMIZER_SLOT/.*"
)
"""Variables that are none of the network."""

_KERAS_CLASS = re.compile(r"([a-z_]*[a-z])(?:_(\d+))?")
_KERAS_MODULES = {
    "deepest_block": "main_module",
    "block_series": "up_blocks",
    "interpolation_upsample": "upsample",
    "convolution_upsample": "upsample",
}
"""Attributes of a level that Keras 3 stores under the name of their class."""

_KERAS_LEAVES = {
    "norm": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def to_torch(variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames variables, and takes kernels from [h, w, in, out] to [out, in, h, w].

    Those of transposed convolutions come as [h, w, out, in] and become [in, out, h, w].

    Args:
      variables: path to array; what is not of the network is left out.
    """
    tensors = {}
    for path, array in variables.items():
        if _BESIDE.fullmatch(path):
            continue
        *modules, leaf = path.split("/")
        words = [_MODULES.get(module, module) for module in modules]
        if leaf == "kernel" and array.ndim == 4:
            array = np.transpose(array, (3, 2, 0, 1))
        tensors[".".join([*words, _LEAVES.get(leaf, leaf)])] = array
    return tensors


def from_keras_path(path: str) -> str:
    """Returns the path in the object graph of a dataset of Keras 3's weights.

    Keras numbers the members of a list and the variables of a layer, and stores layers
    by their class where it meets them in a list of all: `layers/u_net_core/layers/
    u_net_core_1/blocks/residual_block_2/convolution_1/convolution/vars/0`.

    Args:
      path: within the file.
    """
    found: list[str] = []
    words = path.split("/")
    while words:
        word = words.pop(0)
        if word == "layers" and words:
            kind = _class_and_number(words.pop(0))[0]
            inner = "main_module" if found else "net_core"
            found.append(
                inner if kind == "u_net_core" else _KERAS_MODULES.get(kind, kind)
            )
        elif word == "blocks" and words and _is_in_list(words[0]):
            found += [word, str(_class_and_number(words.pop(0))[1])]
        elif word == "vars" and len(words) == 1 and words[0].isdigit() and found:
            leaves = _KERAS_LEAVES.get(found[-1], ("kernel", "bias"))
            number = int(words.pop())
            found.append(leaves[number] if number < len(leaves) else f"vars/{number}")
        else:
            found.append(word)
    return "/".join(found)


def _is_in_list(word: str) -> bool:
    return _class_and_number(word)[0] in ("block", "residual_block")


def _class_and_number(word: str) -> tuple[str, int]:
    """Splits `residual_block_2` into its class and 2; the first has no number."""
    match = _KERAS_CLASS.fullmatch(word)
    return (match[1], int(match[2] or 0)) if match else (word, 0)
