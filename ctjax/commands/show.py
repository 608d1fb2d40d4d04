"""Draws an event into a picture file.

With `--predictions predictions.h5` of an inference over the same file, what the network
made of it is beside the truth. Each plane has a row of whole pictures and a row of the
box around the neutrino, or the last of other classes.

Files of other detectors are read as the predictions say, or as fields do that are typed
here, too: data.image_product=wire data.planes=0,1,2
"""

import os
from collections.abc import Sequence

from ctjax.commands import command_line, data_fields
from ctjax.views.event import (
    read_view,
)
from ctjax.views.picture import draw

FORMATS = (".png", ".pdf", ".svg")


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Args:
      arguments: of the command line, after the command's name.

    Returns:
      Exit status: 0, or 1 after one line about what the user can mend.
    """
    parser = command_line.Parser(
        "show", __doc__ or "", "--file events.h5 --entry 3 --output event.png"
    )
    parser.add_argument("--file", required=True, help="larcv3 file, list or pattern")
    parser.add_argument("--predictions", default="", help="predictions.h5")
    parser.add_argument("--entry", type=int, default=0, help="number of the event")
    parser.add_argument(
        "--output", required=True, help=f"picture to make: {', '.join(FORMATS)}"
    )
    parser.add_argument(
        "fields",
        nargs="*",
        metavar="FIELD=VALUE",
        help=f"how the file is read: {', '.join(data_fields.NAMES)}",
    )
    options = parser.parse_args(arguments)

    if not options.output.endswith(FORMATS):
        parser.error(f"--output: expected {', '.join(FORMATS)}, got {options.output}")

    def command():
        fields = data_fields.read(options.fields)
        view = read_view(options.file, options.predictions, options.entry, fields)
        os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
        draw(view).savefig(options.output)

    return command_line.end_in_one_line(command)
