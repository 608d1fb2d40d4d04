"""Converts weights of ctjax for CosmicTagger and others.

DIR is the output folder of a run, or one step of its checkpoints. A file, .npz or
.safetensors, holds float32 arrays under the names and in the layout of CosmicTagger's
torch network. FOLDER, which needs torch, is a mode.weights_location for inference with
CosmicTagger (its training asks for the state of torch's optimizer besides). With --card
a model card, weights.md, is written beside weights.npz: what the network is, its
training, its results on the events of the run's inference, its limits.
"""

import hashlib
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctjax.base import optional_packages
from ctjax.base.errors import UserError
from ctjax.commands import command_line, words
from ctjax.commands.import_weights import SAFETENSORS
from ctjax.config.architecture import Architecture
from ctjax.config.fields import ComputeMode, Config, Mode

if TYPE_CHECKING:
    from ctjax.views.report import records

PROGRAMS = ("/ctjax", "/ctjax/__main__.py", "/ctjax/main.py")
"""Ends of the names of the programs that start a training."""

UNUSABLE = (Architecture.URESNET_TENSORFLOW, Architecture.URESNET_SPARSE)
"""Networks whose weights torch has no use for: the sparse one of CosmicTagger needs
SparseConvNet, which keeps kernels in an order of its own."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Args:
      arguments: of the command line, after the command's name.

    Returns:
      Exit status: 0, or 1 after one line about what the user can mend.
    """
    parser = command_line.Parser(
        "export-weights", __doc__ or "", "--source DIR --output weights.npz"
    )
    parser.add_argument("--source", required=True, help="output folder of a run")
    parser.add_argument(
        "--output", required=True, help=".npz or .safetensors file, or folder to make"
    )
    parser.add_argument(
        "--card", action="store_true", help="write a model card beside the file"
    )
    options = parser.parse_args(arguments)

    def command():
        # Whatever a card lacks is said before the weights are written.
        card = _find_card(options.source, options.output) if options.card else None
        step, count = export_weights(options.source, options.output)
        sys.stdout.write(f"{options.output}: {count} tensors of step {step}\n")
        if card is not None:
            _write_card(*card, options.output, step)
            sys.stdout.write(f"{card[0]}: model card\n")

    return command_line.end_in_one_line(command)


def export_weights(source: str, output: str) -> tuple[int, int]:
    """Writes the weights of a checkpoint under torch's names.

    Args:
      source: see `checkpoint.restore_weights`.
      output: name of an .npz or .safetensors file, or of a folder in CosmicTagger's
        form.

    Returns:
      The step of the checkpoint and the number of tensors.

    Raises:
      CheckpointError: there is no checkpoint.
      UserError: the network is that of the TensorFlow code, or the sparse one.
      FileExistsError: the output exists.
      MissingExtraError: torch is needed and not there.
    """
    # Imported late: --help needs no jax.
    from ctjax import models
    from ctjax.learning import devices, state
    from ctjax.models import torch_weights
    from ctjax.outputs import checkpoint

    devices.select(ComputeMode.CPU)
    if os.path.exists(output):
        raise FileExistsError(f"{output}: exists, expected none to write over")
    saved, _ = checkpoint.read_config(source)
    network = saved.network
    if network.architecture in UNUSABLE:
        raise UserError(
            f"{source}: weights of network.architecture={network.architecture.value}, "
            "which CosmicTagger's torch code cannot use; expected those of another "
            "network"
        )
    model = models.make(network, detector=saved.detector)
    like = state.init_variables(model, 0)
    mode = Mode(allow_other_images=True)
    config = Config(network=network, data=saved.data, mode=mode)
    variables, step = checkpoint.restore_weights(source, like, config)
    tensors = torch_weights.from_variables(variables)
    if output.endswith((".npz", SAFETENSORS)):
        os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
    if output.endswith(".npz"):
        np.savez(output, **tensors)  # type: ignore[arg-type]
    elif output.endswith(SAFETENSORS):
        library = optional_packages.import_optional("safetensors.numpy", "safetensors")
        arrays = {n: np.array(t, np.float32, order="C") for n, t in tensors.items()}
        library.save_file(arrays, output, metadata={"step": str(step)})
    else:
        _write_torch(output, tensors, step)
    return step, len(tensors)


def _find_card(source: str, output: str) -> tuple[str, "records.Record"]:
    """Returns the name of the card of a file, and the record of the run it tells of.

    Raises:
      UserError: the file is a folder, or the source is that of no training.
      FileExistsError: the card exists.
    """
    from ctjax.views import model_card
    from ctjax.views.report import records

    stem, ending = os.path.splitext(output)
    if ending not in (".npz", SAFETENSORS):
        raise UserError(
            f"--card: expected --output of an .npz or {SAFETENSORS} file, got {output}"
        )
    if os.path.exists(f"{stem}.md"):
        raise FileExistsError(f"{stem}.md: exists, expected none to write over")
    try:
        record = records.read_record(source)
    except records.ReportError as error:
        raise UserError(f"--card: {error}; it needs the folder of the run") from error
    model_card.check(record)
    return f"{stem}.md", record


def _write_card(path: str, record: "records.Record", weights: str, step: int) -> None:
    """Writes the model card of weights that have been written."""
    from ctjax.views import model_card

    with open(weights, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    command = str(record.launches["train"].get("command", ""))
    configuration = find_configuration(command)
    text = model_card.describe(record, weights, step, checksum, configuration)
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)


def find_configuration(command: str) -> str | None:
    """Returns the configuration of a training's command.

    Args:
      command: as the run's record has it.

    Returns:
      Its name or file, that of the network where `network=NAME` was typed; None where
      the command was none of ctjax, as in a notebook.
    """
    default = "default"
    try:
        program, *typed = shlex.split(command) or [""]
        if not f"/{program}".endswith(PROGRAMS):
            return None
        if typed and not typed[0].startswith("-") and "=" not in typed[0]:
            default = "quickstart" if typed.pop(0) == "quickstart" else default
        found = words.sort(typed)
    except ValueError:  # of a record that somebody has changed
        return None
    return found.network or found.configuration or default


def _write_torch(folder: str, tensors: dict[str, np.ndarray], step: int) -> None:
    """A checkpoint and the text index that CosmicTagger finds it by."""
    torch = optional_packages.import_optional("torch", "torch")
    weights = {name: torch.tensor(array) for name, array in tensors.items()}
    for name in tensors:
        module, _, leaf = name.rpartition(".")
        if leaf == "running_mean":
            # Torch counts the minibatches of each BatchNorm; ours does not.
            weights[f"{module}.num_batches_tracked"] = torch.tensor(step)
    os.makedirs(folder)
    file_name = f"model-{step}.ckpt"
    torch.save(
        {"global_step": step, "state_dict": weights}, os.path.join(folder, file_name)
    )
    with open(os.path.join(folder, "checkpoint"), "w", encoding="utf-8") as file:
        file.write(f"latest: {file_name}\n{step}: {file_name}\n")
