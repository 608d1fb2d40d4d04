"""Writes the report page of one or several runs.

One folder gets its own report.html; several are put side by side, with the difference
of their configurations, in the file that --output names.
"""

import os
import sys
from collections.abc import Sequence

from ctjax.commands import command_line
from ctjax.views.report import PAGE


def main(arguments: Sequence[str]) -> int:
    """Runs the command.

    Args:
      arguments: of the command line, after the command's name.

    Returns:
      Exit status: 0, or 1 after one line about what the user can mend.
    """
    parser = command_line.Parser(
        "report",
        __doc__ or "",
        "output/uresnet/first output/uresnet/second --output both.html",
    )
    parser.add_argument("folders", nargs="+", metavar="OUTPUT_DIR", help="of a run")
    parser.add_argument("--output", default="", help="HTML file to write")
    options = parser.parse_args(arguments)
    if len(options.folders) > 1 and not options.output:
        parser.error("--output: expected a file for the page of several runs")
    path = options.output or os.path.join(options.folders[0], PAGE)

    def command():
        from ctjax.views.report import page

        page.write(options.folders, path)
        sys.stdout.write(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB\n")

    return command_line.end_in_one_line(command)
