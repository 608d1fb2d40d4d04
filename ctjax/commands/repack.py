"""Writes a larcv3 file again with one chunk an event, which is faster to read."""

import logging
from collections.abc import Sequence

from ctjax.commands import command_line
from ctjax.data.larcv import repack


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Args:
      arguments: of the command line, after the command's name.

    Returns:
      Exit status: 0, or 1 after one line about what the user can mend.
    """
    parser = command_line.Parser("repack", __doc__ or "", "events.h5 repacked.h5")
    parser.add_argument("source", metavar="IN", help="larcv3 file")
    parser.add_argument("target", metavar="OUT", help="file to write")
    parser.add_argument(
        "--filter", choices=repack.FILTERS, default="gzip", help="filter of the voxels"
    )
    parser.add_argument(
        "--level", type=int, choices=range(1, 10), default=1, help="gzip level"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )

    def command():
        repack.repack(
            options.source,
            options.target,
            filter_name=options.filter,
            level=options.level,
        )

    return command_line.end_in_one_line(command)
