"""Prints requirements.txt with the lowest version that each line allows, for pip -c."""

import pathlib
import re
import sys

REQUIREMENTS = pathlib.Path(__file__).parents[1] / "requirements.txt"


def lowest(line: str) -> str:
    """Returns `name==version; marker` of `name>=version; marker`."""
    found = re.fullmatch(r"([\w.-]+)(\[.*\])?>=([\w.]+)[^;]*(;.*)?", line.strip())
    if found is None:
        raise SystemExit(f"{REQUIREMENTS.name}: {line}: expected NAME>=VERSION")
    name, _, version, marker = found.groups()
    return f"{name}=={version}{marker or ''}"


if __name__ == "__main__":
    lines = REQUIREMENTS.read_text().splitlines()
    wanted = [line for line in lines if line.strip() and line[0] != "#"]
    sys.stdout.write("".join(f"{lowest(line)}\n" for line in wanted))
