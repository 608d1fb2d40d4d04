"""Chooses the form in which a run reads its events; without jax, as the IO test."""

from ctjax.config.fields import Config, Densify
from ctjax.config.heads import active_heads
from ctjax.config.networks import UResNetSparse
from ctjax.data.minibatch import Form, SiteForm


def choose_form(
    config: Config, parts: int = 1, is_alone: bool = True
) -> Form | SiteForm:
    """Returns the form that the network and the configuration ask for.

    Args:
      config: of the run.
      parts: into which this process's minibatches are cut, each computed on its own:
        one for each of its devices, and for each minibatch of a step that takes
        several.
      is_alone: whether no other process computes together with this one.
    """
    network = config.network
    if isinstance(network, UResNetSparse):
        size, heads = network.filter_size_deepest, active_heads(network)
        level = None if heads.vertex is None else heads.halvings
        return SiteForm(network.depth, size, parts, is_alone, level)
    return Form.PIXELS if config.data.densify is Densify.DEVICE else Form.DENSE
