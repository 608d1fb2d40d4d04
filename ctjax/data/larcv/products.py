"""Names the groups of a file's products, and takes their names apart."""

from collections.abc import Iterable

KINDS = (
    *("sparse2d", "sparse3d", "cluster2d", "cluster3d", "particle"),
    *("bbox2d", "bbox3d", "image2d", "tensor1d", "tensor2d", "tensor3d", "tensor4d"),
)
"""Of the products that larcv3 writes, in the order of the listing."""


def group_name(product: str) -> str:
    """Returns the name of the group of a sparse2d product, by its producer."""
    return f"sparse2d_{product}_group"


def split_name(group: str) -> tuple[str, str]:
    """Splits the name of a group, `sparse2d_wire_group`, into kind and producer.

    Returns:
      Both; "" and the whole name where it is no product's.
    """
    kind, _, rest = group.partition("_")
    producer, _, suffix = rest.rpartition("_")
    if kind in KINDS and producer and suffix == "group":
        return kind, producer
    return "", group


def name_all(groups: Iterable[str]) -> str:
    """Names the products of a file with their kinds, for errors."""
    found = (split_name(str(group)) for group in groups)
    names = sorted(f"{name} ({kind})" for kind, name in found if kind)
    return ", ".join(names) or "none, which is what the file has"
