"""Names the state of C sources; needs no other package, as setup.py runs it."""

import hashlib
import pathlib


def source_hash(folder: pathlib.Path) -> str:
    """Returns a hash of the C sources and headers of a folder.

    Args:
      folder: of the package.

    Returns:
      16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
