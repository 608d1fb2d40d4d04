"""Converts between the tensors of CosmicTagger's torch network and ctjax's variables.

Works on dictionaries of numpy arrays; torch is not imported. A torch name such as
`net_core.down_blocks.blocks.0.convolution_1.conv.weight` is the path of the same
tensor in the Flax variables but for the separators and the last word.
"""

import logging
import re
from collections.abc import Collection, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from ctjax.base.detector import Detector
from ctjax.base.errors import UserError
from ctjax.models import other_detectors, other_heads
from ctjax.models.other_detectors import Difference

logger = logging.getLogger("ctjax")

_LEAVES = {
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
    "bias": ("params", "bias"),
}

_RENAMED = {
    "conv1": ("convolution_1", "conv"),
    "conv2": ("convolution_2", "conv"),
    "bn1": ("convolution_1", "norm"),
    "bn2": ("convolution_2", "norm"),
    "bn": ("norm",),
}
"""Modules of CosmicTagger from before May 2022, the competition's, to today's names."""

MOST_NAMED = 20
"""Of the tensors that do not fit, how many a message names."""

_NORMS = ("norm", "norm1", "norm2")
_TRANSPOSED = (("upsample", "conv"), ("ctu", "conv"))
_LISTED = re.compile(r"(blocks|block_[1-4]|encoder_layers(?:_down|_up)?|[qkv])_(\d+)")
"""Modules that are the members of a list in torch: the list's name and the number."""


class WeightsError(UserError):
    """Reports tensors that do not fit the network, in one message."""


def _path_of(torch_name: str) -> tuple[str, ...]:
    """Returns the path in the variables, collection first, of one torch tensor."""
    # torch's attention holds its first projection without a module of its own.
    name = torch_name.removeprefix("module.").replace(".in_proj_", ".in_proj.")
    *modules, leaf = name.split(".")
    path: list[str] = []
    for module in modules:
        if module.isdigit() and path:
            path[-1] += f"_{module}"
        else:
            path += _RENAMED.get(module, (module,))
    # blocks.blocks.0 is a series named "blocks" with its own list "blocks".
    if leaf == "weight":
        collection = "params"
        leaf = "scale" if path and path[-1] in _NORMS else "kernel"
    else:
        collection, leaf = _LEAVES[leaf]
    return (collection, *path, leaf)


def is_transposed(path: tuple[str, ...]) -> bool:
    """Says whether a kernel is a transposed convolution's ([in, out, ...] in torch)."""
    return path[-3:-1] in _TRANSPOSED or path[-2] == "reshape"


def _is_idle_norm(path: tuple[str, ...], tensor: np.ndarray) -> bool:
    """Says whether a tensor is of v2.1's layer normalization, and does nothing.

    Its scales and shifts [C, H, W] are made with the first minibatch, when the
    optimizer has its parameters already, and stay 1 and 0.
    """
    is_norm = tensor.ndim == 3 and path[-2] in _NORMS
    return is_norm and bool(np.all(tensor == (path[-1] == "scale")))


def _flipped(array: np.ndarray) -> np.ndarray:
    """Reverses all axes but the last two."""
    return np.flip(array, tuple(range(array.ndim - 2)))


def _from_torch_layout(path: tuple[str, ...], tensor: np.ndarray) -> np.ndarray:
    """Takes a kernel from [out, in, ...] to [..., in, out], all else as it is."""
    if path[-1] != "kernel":
        return tensor
    if is_transposed(path):
        # lax.conv_transpose correlates with the flipped kernel of torch.
        return _flipped(np.moveaxis(tensor, (0, 1), (-2, -1)))
    return np.moveaxis(tensor, (0, 1), (-1, -2))


def _to_torch_layout(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Takes a kernel from [..., in, out] to [out, in, ...], all else as it is."""
    if path[-1] != "kernel":
        return array
    if is_transposed(path):
        return np.moveaxis(_flipped(array), (-2, -1), (0, 1))
    return np.moveaxis(array, (-1, -2), (0, 1))


def to_variables(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> dict[str, Any]:
    """Converts a torch state dictionary.

    Args:
      tensors: torch name, today's or of before May 2022, to array; names may start
        with "module."; counters (`num_batches_tracked`) and normalizations of whole
        images that were never trained are passed over. May be any
        set of tensors shaped like parameters, gradients for instance.
      like: variables of the network ("params" and, with batch normalization,
        "batch_stats"), for their shapes alone.

    Returns:
      Variables of the structure of `like`, numpy float32.

    Raises:
      WeightsError: a tensor is missing, left over or of another shape.
    """
    wanted = _shapes(like)
    arrays, problems = _to_arrays(tensors, wanted)
    problems += [
        f"{torch_name(path)}: missing"
        for path in wanted
        if path not in arrays and not any(torch_name(path) in p for p in problems)
    ]
    if problems:
        more = len(problems) - MOST_NAMED
        rest = [f"and {more} more"] if more > 0 else []
        raise WeightsError(
            f"{len(problems)} tensors do not fit the network: "
            + "; ".join([*problems[:MOST_NAMED], *rest])
        )
    return flax.traverse_util.unflatten_dict(
        {
            path: np.ascontiguousarray(array, dtype=np.float32)
            for path, array in arrays.items()
        }
    )


def fit(
    tensors: Mapping[str, np.ndarray],
    like: Mapping[str, Any],
    detector: Detector,
    where: tuple[str, str],
    is_for_training: bool,
) -> dict[str, Any]:
    """Converts tensors, also those of a network with other heads or another last layer.

    Args:
      tensors: as in `to_variables`.
      like: variables of the network.
      detector: of the network.
      where: names of the file and of the network, for messages.
      is_for_training: whether the last layer of `like` stays where the tensors are of
        another number of classes, and a head that they lack.

    Returns:
      Variables of the structure of `like`, "batch_stats" among them.

    Raises:
      WeightsError: the tensors do not fit.
    """
    path, name = where
    heads = other_heads.find({_module_of(name) for name in tensors}, like["params"])
    if heads.lacking and not is_for_training:
        raise WeightsError(f"{path}: {other_heads.refusal(heads)}")
    tensors = _without(tensors, heads.spare_modules)
    wanted = other_heads.without(like, heads.lacking_modules)
    difference = find_difference(tensors, wanted, detector)
    if difference is not None:
        if not (difference.is_of_last_layer and is_for_training):
            raise WeightsError(f"{path}: {difference.line}")
        logger.info("%s: %s: all but the last layer is taken", path, difference.line)
        tensors = with_last_layer(tensors, wanted)
    try:
        found = {"batch_stats": {}, **to_variables(tensors, wanted)}
    except WeightsError as error:
        raise WeightsError(f"{path}: network {name} of --config: {error}") from error
    if jax.process_index() == 0:
        other_heads.log(path, heads)
    taken = other_heads.with_own(found, like, heads.lacking_modules)
    return {"batch_stats": {}, **jax.tree.map(np.asarray, taken)}


def find_difference(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Any], detector: Detector
) -> Difference | None:
    """Says whether tensors are of the network for another detector.

    Args:
      tensors: as in `to_variables`.
      like: likewise.
      detector: of the network.
    """
    wanted = _shapes(like)
    arrays, problems = _to_arrays(tensors, wanted)
    found = {path: array.shape for path, array in arrays.items()}
    of_shapes = [path for path in found if found[path] != wanted[path]]
    if len(problems) > len(of_shapes):
        return None
    return other_detectors.find(found, wanted, detector)


def with_last_layer(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns tensors with the last layer of a network's variables for their own."""
    last = {n: p for n, p in like["params"].items() if n in other_detectors.LAST_LAYERS}
    return _without(tensors, last) | from_variables({"params": last})


def _without(
    tensors: Mapping[str, np.ndarray], modules: Collection[str]
) -> dict[str, np.ndarray]:
    """Returns tensors without those of some modules right below the network."""
    return {n: tensor for n, tensor in tensors.items() if _module_of(n) not in modules}


def _module_of(torch_name: str) -> str:
    """Returns the module right below the network that a tensor is of."""
    return torch_name.removeprefix("module.").partition(".")[0]


def _shapes(like: Mapping[str, Any]) -> dict[tuple[str, ...], tuple[int, ...]]:
    leaves: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(dict(like))
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}


def _to_arrays(
    tensors: Mapping[str, np.ndarray],
    wanted: Mapping[tuple[str, ...], tuple[int, ...]],
) -> tuple[dict[tuple[str, ...], np.ndarray], list[str]]:
    """Puts the tensors of a network into our layout, of whatever size they are.

    Args:
      tensors: as in `to_variables`.
      wanted: shape of each of its variables.

    Returns:
      Path to array, and in words what does not fit.
    """
    found, problems = {}, []
    for name, tensor in tensors.items():
        leaf = name.rsplit(".", 1)[-1].removeprefix("in_proj_")
        if leaf == "num_batches_tracked":
            continue
        if leaf != "weight" and leaf not in _LEAVES:
            problems.append(f"{name}: not a tensor of this network")
            continue
        path = _path_of(name)
        if path not in wanted and _is_idle_norm(path, np.asarray(tensor)):
            continue
        if path not in wanted:
            problems.append(f"{name}: not a tensor of this network")
            continue
        if path in found:
            problems.append(f"{name}: given twice, expected {torch_name(path)} alone")
            continue
        array = np.asarray(tensor)
        if array.ndim != len(wanted[path]):
            problems.append(f"{name}: {array.ndim} dimensions, not {len(wanted[path])}")
            continue
        found[path] = array = _from_torch_layout(path, array)
        if array.shape != wanted[path]:
            problems.append(f"{name}: shape {array.shape}, expected {wanted[path]}")
    return found, problems


def torch_name(path: tuple[str, ...]) -> str:
    """Returns the torch name of a path in the variables, collection first."""
    collection, *modules, leaf = path
    words = []
    for module in modules:
        listed = _LISTED.fullmatch(module)
        words += listed.groups() if listed else [module]
    if collection == "batch_stats":
        leaf = f"running_{leaf}"
    elif leaf in ("kernel", "scale"):
        leaf = "weight"
    return ".".join([*words, leaf]).replace(".in_proj.", ".in_proj_")


def from_variables(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts ctjax's variables to torch names and layouts.

    Args:
      variables: "params" and, with batch normalization, "batch_stats".

    Returns:
      torch name to float32 array, without the counters of BatchNorm.
    """
    result = {}
    for path, value in flax.traverse_util.flatten_dict(dict(variables)).items():
        array = _to_torch_layout(path, np.asarray(value, dtype=np.float32))
        result[torch_name(path)] = np.ascontiguousarray(array)
    return result
