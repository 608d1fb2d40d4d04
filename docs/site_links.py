"""Makes links of the pages work in the site, too, which has no files outside docs/.

A hook of mkdocs.yml. On the pages links are those of the repository, whose reader finds
CONTRIBUTING.md and the source files beside docs/.
"""

import pathlib
import re
from typing import Any

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]


def on_files(files: Any, config: Any) -> Any:
    """Adds CONTRIBUTING.md as a page."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text.replace("](docs/", "](")
    files.append(File.generated(config, "contributing.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads to that page, and names source files without a link."""
    markdown = markdown.replace("](../CONTRIBUTING.md", "](contributing.md")
    return re.sub(
        r"\[([^]]+)\]\((\.\./)+(?:ctjax|examples|tests)/[^)]+\)", r"\1", markdown
    )
