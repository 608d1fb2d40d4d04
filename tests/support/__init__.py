"""What several test modules share; they import nothing from one another."""

import pathlib

ROOT = pathlib.Path(__file__).parents[2]
"""The repository."""
