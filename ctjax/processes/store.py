"""Holds what the processes of a run tell each other, in the store of jax's runtime.

The first process keeps the store. It has no public name in jax: no other module takes
hold of it, and `tests/processes/test_hooks.py` fails where a new jax has moved it.
"""

from typing import Any


def is_open() -> bool:
    """Tells whether the store can be asked: jax has joined and not yet ended."""
    return _client() is not None


def put(key: str, value: str, overwrite: bool = False) -> bool:
    """Sets a key, whose first value stays by default.

    Args:
      key: slashes make folders of it.
      value: any text.
      overwrite: whether the last value counts, and not the first.

    Returns:
      Whether the store could be reached.
    """
    client = _client()
    if client is None:
        return False
    try:
        client.key_value_set(key, value, overwrite)
    except RuntimeError as error:
        return "ALREADY_EXISTS" in str(error)
    return True


def get(key: str) -> str | None:
    """Returns the value of a key, None where it or the first process is gone."""
    client = _client()
    try:
        return None if client is None else client.key_value_try_get(key)
    except RuntimeError:
        return None


def get_all(folder: str) -> dict[int, str]:
    """Returns what each rank has left in a folder, under its number.

    Args:
      folder: beginning of the keys, with a slash at its end.
    """
    client = _client()
    try:
        found = [] if client is None else client.key_value_dir_get(folder)
    except RuntimeError:  # nothing there, or the first process is gone
        return {}
    return {int(key.rpartition("/")[2]): value for key, value in found}


def _client() -> Any:
    """Returns jax's client of the store, None before it joins and after it ends."""
    from jax._src import distributed

    return distributed.global_state.client
