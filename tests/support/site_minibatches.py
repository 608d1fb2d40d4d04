"""Minibatches of sites from images, and the images of what a network says of sites."""

import jax.numpy as jnp
import numpy as np

from ctjax.config.heads import active_heads
from ctjax.data.joined_sites import join_parts, make_arrays
from ctjax.data.minibatch import SiteForm
from ctjax.data.site_lists import count_sites, list_sites
from ctjax.data.voxels import Voxels
from ctjax.learning.minibatch import SiteMinibatch


def voxels_of(image, is_held):
    """What a file stores of [P, H, W], where it is held."""
    ids = [np.flatnonzero(plane.T).astype(np.int32) for plane in is_held]
    values = [plane.T.reshape(-1)[at] for plane, at in zip(image, ids, strict=True)]
    ends = np.cumsum([0, *map(len, ids)]).tolist()
    planes = tuple(map(slice, ends, ends[1:]))
    return Voxels(np.concatenate(ids), np.concatenate(values), planes, True)


def site_minibatch(charge, label, is_site, network, parts=1, spare=3, mask=None):
    """A minibatch, and the ids of its sites [Q, N].

    Args:
      charge: [B, P, H, W] float32.
      label: [B, P, H, W] uint8.
      is_site: [B, P, H, W] bool.
      network: options of the sparse network.
      parts: Q.
      spare: places more than sites.
      mask: [B] float32; None for ones.
    """
    height, width = charge.shape[2:]
    depth, size = network.depth, network.filter_size_deepest
    events = [
        list_sites(
            voxels_of(charge[event], is_site[event]),
            voxels_of(label[event], label[event] != 0),
            (height, width),
            depth,
        )
        for event in range(len(charge))
    ]
    each = len(events) // parts
    counts = np.array([count_sites(event) for event in events])
    largest = counts.reshape(parts, each, -1).sum(1).max(0) + spare
    heads = active_heads(network)
    level = None if heads.vertex is None else heads.halvings
    form = SiteForm(depth, size, parts, map_level=level)
    arrays = make_arrays(form, each, largest.tolist(), (height, width))
    sites, site_ids = join_parts(events, height * width, arrays, level)
    mask = np.ones(len(charge), np.float32) if mask is None else mask
    return SiteMinibatch(sites, mask), site_ids


def to_images(values, sites, site_ids, image_shape):
    """Writes [Q, N, ...] of sites into zeros [B, P, H, W, ...]; numpy's or jax's."""
    xp = np if isinstance(values, np.ndarray) else jnp
    height, width = image_shape
    parts, images = sites.empty.shape[:2]
    place = np.full((parts, images, width * height), site_ids.size)
    for part in range(parts):
        image = np.asarray(sites.levels[0].image)[part]
        held = np.flatnonzero(image < images)
        number = part * site_ids.shape[1] + held
        place[part, image[held], site_ids[part][held]] = number
    place = place.reshape(-1, sites.steps[-1].parts.shape[-1], width, height)
    flat = values.reshape(site_ids.size, *values.shape[2:])
    nothing = xp.zeros((1, *values.shape[2:]), values.dtype)
    return xp.concatenate([flat, nothing])[place.swapaxes(2, 3)]


def random_events(shape, events, seed=0, density=0.2):
    """Charges, classes and sites [B, P, *shape]; some classes lie beyond the sites."""
    random = np.random.default_rng(seed)
    full = (events, 3, *shape)
    is_site = random.random(full) < density
    charge = np.where(is_site, random.normal(1, 1, full), 0).astype(np.float32)
    label = np.where(is_site, random.integers(0, 3, full), 0)
    label = np.where(random.random(full) < 0.02, 2, label).astype(np.uint8)
    return charge, label, is_site
