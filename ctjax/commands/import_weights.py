"""Converts weights of CosmicTagger's torch network to a checkpoint of ctjax.

CHECKPOINT is CosmicTagger's folder of checkpoints, one of its .ckpt files, any file of
a torch state dictionary, or an .npz of arrays under their torch names. DIR is then a
mode.weights_location for training and inference.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctjax.base import optional_packages
from ctjax.commands import command_line
from ctjax.config.fields import ComputeMode, Config

TORCH_INDEX = "checkpoint"
"""CosmicTagger's text file beside its checkpoints; `latest: model-40.ckpt`."""


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
        "--config", required=True, help="configuration with the network"
    )
    options, fields = parser.parse_known_args(arguments)

    def command():
        config = command_line.parse_config(["--config", options.config, *fields])
        step, count = import_weights(options.source, config, options.output)
        sys.stdout.write(
            f"{options.output}: {count} parameters of {options.source}, step {step}\n"
        )

    return command_line.end_in_one_line(command)


def import_weights(source: str, config: Config, output_dir: str) -> tuple[int, int]:
    """Converts a checkpoint.

    Args:
      source: CosmicTagger's folder, a torch file or an .npz.
      config: for its network.
      output_dir: folder of the new checkpoint.

    Returns:
      The step at which the weights were saved, 0 where unknown, and the number of
      trainable parameters.

    Raises:
      WeightsError: the source cannot be read or does not fit the network.
      FileExistsError: there are checkpoints in the output folder.
      MissingExtraError: torch is needed and not there.
    """
    # Imported late, here and below: --help needs no jax.
    from ctjax import models
    from ctjax.learning import devices, state
    from ctjax.models import torch_weights
    from ctjax.models.torch_weights import WeightsError
    from ctjax.outputs import checkpoint

    devices.select(ComputeMode.CPU)
    path = find_file(source)
    tensors, step = _read_npz(path) if path.endswith(".npz") else _read_torch(path)
    like = state.init_variables(models.make(config.network), config.run.seed)
    try:
        found = torch_weights.to_variables(tensors, like)
    except WeightsError as error:
        raise WeightsError(
            f"{path}: network {config.network.name} of --config: {error}"
        ) from error
    variables = {"batch_stats": {}, **found}
    checkpoint.save_weights(output_dir, variables, step, config)
    return step, state.count_parameters(variables["params"])


def find_file(source: str) -> str:
    """Follows CosmicTagger's text index to the last checkpoint.

    Args:
      source: a file, the folder of the index, or the run's folder above.

    Returns:
      The file with the tensors.

    Raises:
      WeightsError: there is none.
    """
    from ctjax.models.torch_weights import WeightsError

    if not os.path.exists(source):
        raise WeightsError(f"{source}: no such file or folder")
    index = source
    if os.path.isdir(source):
        candidates = [
            os.path.join(source, *folders, TORCH_INDEX)
            for folders in ((), ("checkpoints",))
        ]
        found = [path for path in candidates if os.path.isfile(path)]
        if not found:
            raise WeightsError(f"{source}: expected a text file {TORCH_INDEX} in it")
        index = found[0]
    elif os.path.basename(source) != TORCH_INDEX:
        return source
    with open(index, errors="replace") as file:
        names = [line[8:].strip() for line in file if line.startswith("latest: ")]
    if not names:
        raise WeightsError(f"{index}: expected a line 'latest: FILE'")
    path = os.path.join(os.path.dirname(index), names[0])
    if not os.path.isfile(path):
        raise WeightsError(f"{index}: names {names[0]}, which is not there")
    return path


def _read_npz(path: str) -> tuple[dict[str, np.ndarray], int]:
    from ctjax.models.torch_weights import WeightsError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}, 0
    except (ValueError, OSError, EOFError) as error:
        raise WeightsError(f"{path}: expected an .npz of arrays: {error}") from error


def _read_torch(path: str) -> tuple[dict[str, np.ndarray], int]:
    """Tensors and step of a torch file, unpickled as data, never as code."""
    from ctjax.models.torch_weights import WeightsError

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
