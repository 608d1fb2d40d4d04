"""Draws an event into a picture file, or lists what files hold.

With `--predictions predictions.h5` of an inference over the same file, what the network
made of it is beside the truth. Each plane has a row of whole pictures and a row of the
box around the neutrino, or the last of other classes.

Files of other detectors are read as the predictions say, or as fields do that are typed
here, too: data.image_product=wire data.planes=0,1,2

With `--list` it prints instead what is in larcv3 files: products, events, planes,
values, labels, what is wrong with them, and what to type to train on them.
"""

import os
from collections.abc import Sequence

from ctjax.commands import command_line, data_fields, list_files

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
    parser.add_argument("--file", help="larcv3 file, list or pattern")
    parser.add_argument("--predictions", help="predictions.h5")
    parser.add_argument("--entry", type=int, help="number of the event, by default 0")
    parser.add_argument("--output", help=f"picture to make: {', '.join(FORMATS)}")
    parser.add_argument(
        "--list", nargs="+", metavar="FILE", help="larcv3 files to list, and no picture"
    )
    parser.add_argument(
        "fields",
        nargs="*",
        metavar="FIELD=VALUE",
        help=f"how the file is read: {', '.join(data_fields.NAMES)}",
    )
    options = parser.parse_args(arguments)
    drawn = {name: value for name, value in vars(options).items() if name != "list"}

    if options.list is not None:
        for name, value in drawn.items():
            if value not in (None, []):
                parser.error(f"--{name}: expected none beside --list")
        return command_line.end_in_one_line(
            lambda: list_files.print_listings(options.list)
        )
    missing = [f"--{name}" for name in ("file", "output") if not drawn[name]]
    if missing:
        parser.error(f"expected {' and '.join(missing)}, or --list FILE")
    if not options.output.endswith(FORMATS):
        parser.error(f"--output: expected {', '.join(FORMATS)}, got {options.output}")

    def command():
        from ctjax.views import event, picture  # slow to import, and not for lists

        fields = data_fields.read(options.fields)
        view = event.read_view(
            options.file, options.predictions or "", options.entry or 0, fields
        )
        os.makedirs(os.path.dirname(os.path.abspath(options.output)), exist_ok=True)
        picture.draw(view).savefig(options.output)

    return command_line.end_in_one_line(command)
