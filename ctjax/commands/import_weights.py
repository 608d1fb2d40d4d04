"""Converts weights of CosmicTagger's network to a checkpoint of ctjax.

CHECKPOINT is CosmicTagger's folder of checkpoints, one of its .ckpt files, any file of
a torch state dictionary, or an .npz or .safetensors of arrays under their torch names,
those of before May 2022 too. With --config uresnet_tensorflow it is a folder or a
checkpoint that its TensorFlow code has written, or v2.1's .weights.h5. DIR is then a
mode.weights_location for training and inference, as CHECKPOINT itself is.
"""

import glob
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctjax.base import npz, optional_packages, regular_files
from ctjax.commands import command_line
from ctjax.config.architecture import AnyNetwork, Architecture
from ctjax.config.detectors import read_detector
from ctjax.config.fields import ComputeMode, Config

MAX_NAMED = 5
"""Tensors that a message names."""

TEXT_INDEX = "checkpoint"
"""CosmicTagger's text file beside its checkpoints; `latest: model-40.ckpt`."""

TENSORFLOW_LINE = re.compile(r'model_checkpoint_path:\s*"(.*)"')
"""What TensorFlow writes in its file of that name."""

KERAS = ".weights.h5"

OF_TORCH = (".ckpt", ".pt", ".pth")

SAFETENSORS = ".safetensors"

WHOLE_MODELS = (".keras", "saved_model.pb")


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Args:
      arguments: of the command line, after the command's name.

    Returns:
      Exit status: 0, or 1 after one line about what the user can mend.
    """
    parser = command_line.Parser(
        "import-weights",
        __doc__ or "",
        "--source CHECKPOINT --config scc21 --output DIR",
    )
    parser.add_argument("--source", required=True, help="checkpoint to take")
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument(
        *("--config", "--config-name"),
        required=True,
        help="configuration with the network; fields may follow, as for a run",
    )
    options, fields = parser.parse_known_args(arguments)

    def command():
        words = ["--config", options.config, *fields]
        config, notes = command_line.parse_config(words)
        for note in notes:
            sys.stderr.write(f"ctjax: {note}\n")
        step, count = import_weights(options.source, config, options.output)
        sys.stdout.write(
            f"{options.output}: {count} parameters of {options.source}, step {step}\n"
        )

    return command_line.end_in_one_line(command)


def import_weights(source: str, config: Config, output_dir: str) -> tuple[int, int]:
    """Converts a checkpoint.

    Args:
      source: see `read_weights`.
      config: for its network, and its planes and classes.
      output_dir: folder of the new checkpoint.

    Returns:
      The step at which the weights were saved, 0 where unknown, and the number of
      trainable parameters.

    Raises:
      WeightsError: the source cannot be read, holds numbers that are not finite, or
        does not fit the network.
      FileExistsError: there are checkpoints in the output folder.
      MissingExtraError: torch is needed and not there.
    """
    # Imported late, here and below: --help needs no jax.
    from ctjax import models
    from ctjax.learning import devices, state
    from ctjax.outputs import checkpoint

    devices.select(ComputeMode.CPU)
    model = models.make(config.network, detector=read_detector(config.data))
    like = state.init_variables(model, config.run.seed)
    variables, step = read_weights(source, like, config)
    checkpoint.save_weights(output_dir, variables, step, config)
    return step, state.count_parameters(variables["params"])


def read_weights(
    source: str,
    like: Mapping[str, Any],
    config: Config,
    is_for_training: bool = False,
) -> tuple[dict[str, Any], int]:
    """Reads weights of CosmicTagger.

    Args:
      source: CosmicTagger's folder, a file of torch, TensorFlow or Keras, an .npz or a
        .safetensors.
      like: variables of the network, for their shapes.
      config: for its options, and for its planes and classes.
      is_for_training: whether to take the last layer of `like` for one of another
        number of classes, and the heads of `like` that the weights lack.

    Returns:
      The variables, numpy float32, and the step at which they were saved, 0 where
      unknown.

    Raises:
      WeightsError: the source cannot be read or does not fit the network.
      MissingExtraError: torch is needed and not there.
    """
    from ctjax.models import torch_weights

    network = config.network
    path = find_file(source)
    is_of_tensorflow = _is_of_tensorflow(path)
    _check_framework(path, is_of_tensorflow, network)
    if is_of_tensorflow:
        tensors, step = _read_tensorflow(path)
    elif path.endswith(SAFETENSORS):
        tensors, step = _read_safetensors(path)
    else:
        tensors, step = _read_npz(path) if path.endswith(".npz") else _read_torch(path)
    _check_numbers(path, tensors)
    detector, where = read_detector(config.data), (path, network.name)
    return torch_weights.fit(tensors, like, detector, where, is_for_training), step


def is_foreign(location: str) -> bool:
    """Says whether a location is of weights that are no checkpoint of ctjax.

    Args:
      location: as `mode.weights_location` names it.

    Returns:
      Whether it is a file, or a folder that torch or TensorFlow code has written.
    """
    if not os.path.isdir(location):
        return os.path.exists(location) or os.path.exists(f"{location}.index")
    if _find_indices(location):
        return True
    names = os.listdir(location)
    is_ours = "checkpoints" in names or any(name.isdigit() for name in names)
    return not is_ours and bool(_find_files(location))


def _find_indices(folder: str) -> list[str]:
    """Finds the text index in a folder of checkpoints, or in a run's folder."""
    candidates = [
        os.path.join(folder, *between, TEXT_INDEX) for between in ((), ("checkpoints",))
    ]
    return [path for path in candidates if os.path.isfile(path)]


def _find_files(folder: str) -> list[str]:
    """Finds the files of a folder that look like weights of torch or TensorFlow."""
    return sorted(
        path
        for path in glob.glob(os.path.join(glob.escape(folder), "*"))
        if path.endswith((*OF_TORCH, ".npz", SAFETENSORS)) or _is_of_tensorflow(path)
    )


def _is_of_tensorflow(path: str) -> bool:
    """Says whether a file, or the beginning of names of files, is TensorFlow's."""
    is_there = os.path.isfile(f"{path}.index") and not os.path.exists(path)
    endings = (".index", KERAS, *WHOLE_MODELS)
    return path.endswith(endings) or ".data-00000-of-" in path or is_there


def _name_in_tensorflow(path: str) -> str:
    """Returns the name that TensorFlow gives a checkpoint, of one of its files.

    Raises:
      WeightsError: it is a whole model.
    """
    from ctjax.models.torch_weights import WeightsError

    if path.endswith(WHOLE_MODELS):
        raise WeightsError(
            f"{path}: found a whole model of TensorFlow, expected weights as "
            f"CosmicTagger writes them, a .ckpt with its .index or a {KERAS}"
        )
    return path.partition(".data-00000-of-")[0].removesuffix(".index")


def _check_framework(path: str, is_of_tensorflow: bool, network: AnyNetwork) -> None:
    """Refuses weights of one of CosmicTagger's frameworks for the other's network.

    Their tensors may have the same shapes; what is computed with them differs. Those of
    its sparse network are SparseConvNet's, with kernels in an order of their own.
    """
    from ctjax.models.torch_weights import WeightsError

    if network.architecture is Architecture.URESNET_SPARSE:
        raise WeightsError(
            f"{path}: found weights of CosmicTagger, expected a checkpoint of ctjax "
            "with network.architecture=uresnet_sparse"
        )
    found, expected = "torch", "of TensorFlow"
    if is_of_tensorflow:
        found, expected = "TensorFlow", "of torch, or network=uresnet_tensorflow,"
    if is_of_tensorflow != (network.architecture is Architecture.URESNET_TENSORFLOW):
        raise WeightsError(
            f"{path}: found weights of {found}, expected weights {expected} with "
            f"network.architecture={network.architecture.value}"
        )


def find_file(source: str) -> str:
    """Follows CosmicTagger's text index to the last checkpoint.

    Args:
      source: a file, the folder of the index, or the run's folder above.

    Returns:
      The file with the tensors; of TensorFlow's files their common beginning.

    Raises:
      WeightsError: there is none.
    """
    from ctjax.models.torch_weights import WeightsError

    if os.path.isdir(source):
        indices = _find_indices(source)
        return _follow(indices[0]) if indices else _only_file(source)
    if _is_of_tensorflow(source):
        return _name_in_tensorflow(source)
    if not os.path.exists(source):
        raise WeightsError(f"{source}: no such file or folder")
    is_index = os.path.basename(source) == TEXT_INDEX
    return _follow(source) if is_index else source


def _only_file(folder: str) -> str:
    """Returns the one checkpoint of TensorFlow in a folder without a text index."""
    from ctjax.models.torch_weights import WeightsError

    files = _find_files(folder)
    theirs = {_name_in_tensorflow(path) for path in files if _is_of_tensorflow(path)}
    of_torch = [path for path in files if path.endswith(OF_TORCH)]
    if len(theirs) == 1 and not set(of_torch) - theirs:
        return theirs.pop()
    listed = ", ".join(os.path.basename(path) for path in files)
    hint = f", or the name of one of its files: {listed}" if files else ""
    raise WeightsError(f"{folder}: expected a text file {TEXT_INDEX} in it{hint}")


def _follow(index: str) -> str:
    """Returns the file that a text index of torch's or TensorFlow's code names."""
    from ctjax.models.torch_weights import WeightsError

    with open(index, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    names = [line[8:].strip() for line in lines if line.startswith("latest: ")]
    matches = [TENSORFLOW_LINE.match(line) for line in lines]
    theirs = [match[1] for match in matches if match]
    if not names and not theirs:
        raise WeightsError(f"{index}: expected a line 'latest: FILE'")
    name = (names + theirs)[0]
    path = os.path.join(os.path.dirname(index), name)
    if not os.path.isfile(path if names else f"{path}.index"):
        raise WeightsError(f"{index}: names {name}, which is not there")
    return path


def _check_numbers(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises WeightsError for what is no number, or none in float32."""
    from ctjax.models.torch_weights import WeightsError

    wrong = []
    for name, tensor in tensors.items():
        if tensor.dtype.kind not in "fiub":
            raise WeightsError(
                f"{path}: {name} is of type {tensor.dtype}, expected real numbers"
            )
        with np.errstate(over="ignore"):
            if not np.isfinite(tensor.astype(np.float32)).all():
                wrong.append(name)
    if wrong:
        more = f" and {len(wrong) - MAX_NAMED} more" * (len(wrong) > MAX_NAMED)
        raise WeightsError(
            f"{path}: found numbers that are not finite in "
            f"{', '.join(wrong[:MAX_NAMED])}{more}, expected finite ones"
        )


def _read_npz(path: str) -> tuple[dict[str, np.ndarray], int]:
    from ctjax.models.torch_weights import WeightsError

    regular_files.check(path)
    try:
        npz.check_sizes(path)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}, 0
    except Exception as error:  # of any kind, where an archive is damaged
        raise WeightsError(f"{path}: expected an .npz of arrays: {error}") from error


def _read_safetensors(path: str) -> tuple[dict[str, np.ndarray], int]:
    """Tensors, and the step that `export_weights` leaves in the header."""
    from ctjax.models.torch_weights import WeightsError

    library = optional_packages.import_optional("safetensors", "safetensors")
    regular_files.check(path)
    try:
        with library.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            # Of bfloat16, which is a type of jax's.
            halves = [n for n, tensor in tensors.items() if tensor.dtype.kind == "V"]
            tensors |= {name: tensors[name].astype(np.float32) for name in halves}
            step = (file.metadata() or {}).get("step", "")
    # TypeError: of a number format that numpy does not have.
    except (library.SafetensorError, TypeError) as error:
        raise WeightsError(
            f"{path}: expected a file of tensors: {' '.join(str(error).split())[:300]}"
        ) from error
    return tensors, int(step) if step.isdigit() else 0


def _read_tensorflow(path: str) -> tuple[dict[str, np.ndarray], int]:
    """Tensors under their torch names, and the step in the name of the file."""
    from ctjax.commands import tensorflow_files
    from ctjax.models import tensorflow_weights

    is_keras = path.endswith(KERAS)
    read = tensorflow_files.read_keras if is_keras else tensorflow_files.read_bundle
    step = re.search(r"_(\d+)\.", os.path.basename(path))
    return tensorflow_weights.to_torch(read(path)), int(step[1]) if step else 0


def _read_torch(path: str) -> tuple[dict[str, np.ndarray], int]:
    """Tensors and step of a torch file, unpickled as data, never as code."""
    from ctjax.models.torch_weights import WeightsError

    regular_files.check(path)
    torch = optional_packages.import_optional("torch", "torch")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch meets files that are not its own with errors of many kinds.
        raise WeightsError(
            f"{path}: expected a torch file of tensors: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path}: expected a dictionary of tensors, found {type(content).__name__}"
        )
    step = content.get("global_step", 0)
    tensors = content.get("state_dict", content)
    if not isinstance(tensors, Mapping) or not isinstance(step, int) or step < 0:
        raise WeightsError(f"{path}: expected a dictionary of tensors and a step")
    not_tensors = [name for name, t in tensors.items() if not torch.is_tensor(t)]
    if not_tensors:
        raise WeightsError(f"{path}: {not_tensors[0]} is not a tensor")
    return {
        str(name): tensor.to(torch.float32).numpy() for name, tensor in tensors.items()
    }, step
