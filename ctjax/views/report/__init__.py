"""Makes the report page: one HTML file about a run, or about several side by side.

`records` reads what runs have left, `events` picks and packs events to look at,
`figures` draws with Bokeh, `tables` computes the numbers, and `page` puts everything
into page.html. Nothing here needs jax.
"""

import logging
import os

__all__ = ["write_after_run"]

logger = logging.getLogger("ctjax")

PAGE = "report.html"


def write_after_run(output_dir: str) -> None:
    """Writes `report.html` after a run; what goes wrong here never fails the run.

    Args:
      output_dir: output folder of the run.
    """
    path = os.path.join(output_dir, PAGE)
    try:
        from ctjax.views.report import page  # Bokeh takes a second to import

        page.write([output_dir], path)
    except Exception as error:  # of any kind: the run has ended well
        words = " ".join(str(error).split()) or type(error).__name__
        logger.warning("No report page: %s", words)
        logger.debug("for", exc_info=error)
    else:
        logger.info("Report page: %s", path)
