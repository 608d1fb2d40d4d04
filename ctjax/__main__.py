"""Runs `ctjax COMMAND …`, which may also be written `python -m ctjax COMMAND …`."""

import difflib
import importlib
import shlex
import sys
from collections.abc import Sequence

from ctjax import main as run
from ctjax.base import standard_streams, version
from ctjax.config import describe
from ctjax.config.fields import ModeName

RUNS = {
    "run": (None, "default", "do what the configuration's mode.name says"),
    "train": (ModeName.TRAIN, "default", "train a network"),
    "infer": (ModeName.INFERENCE, "default", "predict, and compare with the truth"),
    "iotest": (ModeName.IOTEST, "default", "read only, and measure how fast"),
    "quickstart": (ModeName.QUICKSTART, "quickstart", "simulate, train and report"),
}
"""Mode, default configuration and meaning of the commands that are runs."""

COMMANDS = {
    "show": ("show", "draw an event, or list what files hold"),
    "report": ("report", "write the report page of one or several runs"),
    "simulate": ("simulate", "simulate events into larcv3 files"),
    "repack": ("repack", "write a larcv3 file again, faster to read"),
    "import-weights": ("import_weights", "take weights of CosmicTagger"),
    "export-weights": ("export_weights", "give weights to CosmicTagger and others"),
}
"""Module in `ctjax.commands` and meaning of the other commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: of the command line, without the program's name; by default those of
        this process.

    Returns:
      Exit status: 0; 1 after one line about what the user can mend, or after the help
      where no command is given; 75 where a run has been stopped that the same command
      goes on with.
    """
    standard_streams.open_closed()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        sys.stderr.write(help_text())
        return 1
    name, rest = words[0], words[1:]
    if name in ("--help", "-h"):
        sys.stdout.write(help_text())
        return 0
    if "--version" in words:
        sys.stdout.write(f"{version.describe()}\n")
        return 0
    if name in RUNS:
        if "--help" in rest or "-h" in rest:
            sys.stdout.write(describe.help_text(name))
            return 0
        mode, default, _ = RUNS[name]
        return run.main(rest, mode, default)
    if name in COMMANDS:
        command = importlib.import_module(f"ctjax.commands.{COMMANDS[name][0]}")
        return command.main(rest)
    near = difflib.get_close_matches(name, [*RUNS, *COMMANDS], n=1)
    hint = f"did you mean {near[0]}?" if near else "see ctjax --help"
    if "=" in name or name.startswith(("--config", "-config", "-cn")):
        hint = f"did you mean ctjax run {shlex.join(words)}?"
    sys.stderr.write(f"ctjax: error: {name}: no such command; {hint}\n")
    return 1


def help_text() -> str:
    """Formats the list of commands."""
    meanings = {name: words[-1] for name, words in (RUNS | COMMANDS).items()}
    lines = [f"  {name:16}{meaning}" for name, meaning in meanings.items()]
    return "\n".join(
        [
            "usage: ctjax COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "example:",
            "  ctjax train --config scc21 data.file=events.h5",
            "",
            "ctjax COMMAND --help tells more, ctjax --version which version this is.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
