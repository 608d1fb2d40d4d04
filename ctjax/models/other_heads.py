"""Finds out which heads weights have that a network has not, and the other way round.

Weights of one may be used by the other: a head that the network has not is left out,
and in a training one that the weights lack begins anew.
"""

import logging
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

logger = logging.getLogger("ctjax")

MODULES = {
    "classification": ("classifier_input", "classifier", "bottleneck_classifer"),
    "vertex": ("vertex_input", "vertex_layers", "bottleneck_vertex"),
}
"""The modules right below a network that are its heads', by the heads' sections."""


class HeadDifference(NamedTuple):
    """Holds heads by the names of their sections of `network`.

    Attributes:
      lacking: those of the network that the weights have nothing of.
      spare: those of the weights that the network has nothing of.
    """

    lacking: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()

    @property
    def lacking_modules(self) -> frozenset[str]:
        """Returns the modules of the network that the weights lack."""
        return frozenset(name for head in self.lacking for name in MODULES[head])

    @property
    def spare_modules(self) -> frozenset[str]:
        """Returns the modules of the weights that are to be left out."""
        return frozenset(name for head in self.spare for name in MODULES[head])

    @property
    def modules(self) -> frozenset[str]:
        """Returns all of these."""
        return self.lacking_modules | self.spare_modules


SAME_HEADS = HeadDifference()


def find(theirs: Collection[str], ours: Collection[str]) -> HeadDifference:
    """Compares the heads of weights with those of a network.

    Args:
      theirs: modules right below the network, of the weights.
      ours: likewise, of the network.

    Returns:
      The difference; a head of which either has a part alone is in none.
    """
    found = {
        head: [any(name in names for name in modules) for names in (theirs, ours)]
        for head, modules in MODULES.items()
    }
    return HeadDifference(
        tuple(head for head, has in found.items() if has == [False, True]),
        tuple(head for head, has in found.items() if has == [True, False]),
    )


def refusal(difference: HeadDifference) -> str:
    """Says in a line why weights that lack heads cannot be used but by a training."""
    names = _listed(difference.lacking)
    return (
        f"weights without the head of {names}, expected weights with it, or "
        f"{' and '.join(f'network.{head}.active=False' for head in difference.lacking)}"
        "; a training may begin with these"
    )


def log(where: str, difference: HeadDifference) -> None:
    """Says in a line what becomes of heads that are not in both, if there are any.

    Args:
      where: name of the weights.
      difference: what has been done with them.
    """
    lacking, spare = map(_listed, difference)
    if lacking:
        logger.info("%s: weights without the head of %s: begun anew", where, lacking)
    if spare:
        logger.warning("%s: the head of %s is left out", where, spare)


def without(
    variables: Mapping[str, Mapping[str, Any]], modules: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Returns variables, by collection and module, without some modules."""
    return {
        collection: {name: part for name, part in tree.items() if name not in modules}
        for collection, tree in variables.items()
    }


def with_own(
    found: Mapping[str, Mapping[str, Any]],
    variables: Mapping[str, Mapping[str, Any]],
    modules: Collection[str],
) -> dict[str, dict[str, Any]]:
    """Returns the variables of a network with those that were found for it.

    Args:
      found: by collection and module; others than the network's are left out.
      variables: of the network.
      modules: those whose own variables stay.
    """
    return {
        collection: {
            name: part if name in modules else found[collection][name]
            for name, part in tree.items()
        }
        for collection, tree in variables.items()
    }


def _listed(heads: tuple[str, ...]) -> str:
    return " and ".join(f"network.{head}" for head in heads)
