"""The sparse UResNet once more, by convolutions of images and masks.

Written for its clarity alone, to hold `models.uresnet_sparse` against: everywhere but
at active pixels the features are zero. It takes the parameters of that network.
"""

import jax
import jax.numpy as jnp

EPSILON = 1e-4
SLOPE = 1 / 3


class MaskedUResNet:
    """Computes logits of images [I, H, W] whose pixels are active where a mask says so.

    Attributes:
      network: options.
      variables: "params" and "batch_stats".
      num_planes: of an event.
      train: whether batch normalization takes the minibatch's statistics.
      updated: running statistics after a call in training, as a nested dictionary.
      seen: features and mask of each level after a call, by its height over the bottom;
        of the merged planes by "merged".
    """

    def __init__(self, network, variables, num_planes=3, train=False):
        self.network, self.num_planes, self.train = network, num_planes, train
        self.variables, self.updated, self.seen = variables, {}, {}

    def __call__(self, charge, mask):
        """Logits [I, H, W, K] of charge [I, H, W], 0 where the mask is not."""
        features = self.network.n_initial_filters
        x = charge[..., None]
        x = self.block(("initial_convolution",), x, mask)
        x = self.level(("net_core",), x, mask, self.network.depth)
        x = self.series(("final_layer",), x, mask, self.network.blocks_final)
        assert x.shape[-1] == features
        return self.pointwise(("bottleneck",), x, mask)

    def event_scores(self):
        """Scores [B, 4] of the events of the last call, a mean over their sites."""
        head, (x, mask) = self.network.classification, self.seen["merged"]
        x = self.pointwise(("classifier_input",), x, mask)
        x = self.series(("classifier",), x, mask, head.n_layers)
        x = self.pointwise(("bottleneck_classifer",), x, mask)
        count = mask.sum((1, 2))[:, None]
        return jnp.where(count > 0, x.sum((1, 2)) / jnp.maximum(count, 1), 0)

    def vertex_scores(self):
        """Scores [B, P, h, w, 3] of the cells of the last call."""
        head = self.network.vertex
        x, mask = self.seen[head.depth]
        x = self.pointwise(("vertex_input",), x, mask)
        x = self.series(("vertex_layers",), x, mask, head.n_layers)
        x = self.pointwise(("bottleneck_vertex",), x, mask)
        x = jnp.where(mask[..., None], x, row([-20.0, 0, 0]))
        return x.reshape(-1, self.num_planes, *x.shape[1:])

    def level(self, path, x, mask, depth):
        self.seen[depth] = self.unseen_level(path, x, mask, depth), mask
        return self.seen[depth][0]

    def unseen_level(self, path, x, mask, depth):
        if depth == 0:
            return self.deepest((*path, "main_module"), x, mask)
        network = self.network
        x = skip = self.series(
            (*path, "down_blocks"), x, mask, network.blocks_per_layer
        )
        below = jnp.stack([mask[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]).any(0)
        x = self.block((*path, "downsample"), x, below, strided)
        x = self.level((*path, "main_module"), x, below, depth - 1)
        x = self.block((*path, "upsample"), x, mask, transposed)
        if network.connections.value == "sum":
            x = x + skip
        elif network.connections.value == "concat":
            joined = jnp.concatenate([x, skip], -1)
            x = self.pointwise((*path, "connection", "bottleneck"), joined, mask)
        return self.series((*path, "up_blocks"), x, mask, network.blocks_per_layer)

    def deepest(self, path, x, mask):
        planes = self.num_planes
        events = mask.reshape(-1, planes, *mask.shape[1:])
        kernel, bias = self.convolution((*path, "merger"))
        x = x.reshape(*events.shape, -1)
        merged = events.any(1)
        x = at(merged, jnp.einsum("bphwc,pcf->bhwf", x, kernel) + row(bias))
        x = self.series((*path, "blocks"), x, merged, self.network.blocks_deepest_layer)
        self.seen["merged"] = x, merged
        kernel, bias = self.convolution((*path, "splitter"))
        x = jnp.einsum("bhwc,pcf->bphwf", x, kernel).reshape(*mask.shape, -1)
        return at(mask, x + row(bias))

    def series(self, path, x, mask, number):
        for index in range(number):
            here = (*path, f"blocks_{index}")
            if self.network.residual:
                y = self.block((*here, "convolution_1"), x, mask)
                x = self.block((*here, "convolution_2"), y, mask, residual=x)
            else:
                x = self.block(here, x, mask)
        return x

    def block(self, path, x, mask, convolve=None, residual=0.0):
        kernel, bias = self.convolution(path)
        y = at(mask, (convolve or same)(x, kernel) + row(bias))
        if self.network.normalization.value != "none":
            y = at(mask, self.norm((*path, "norm"), y, mask))
        y = y + residual
        return jnp.where(y > 0, y, SLOPE * y)

    def norm(self, path, y, mask):
        params = self.find("params", path)
        held = mask[..., None]
        by_image = self.network.normalization.value == "instance"
        axes = (1, 2) if by_image else (0, 1, 2)
        count = jnp.maximum(held.sum(axes, keepdims=True), 1)
        mean = y.sum(axes, keepdims=True) / count
        var = jnp.where(held, (y - mean) ** 2, 0).sum(axes, keepdims=True) / count
        if not by_image:
            running = self.find("batch_stats", path)
            if self.train:
                unbiased = var * count / jnp.maximum(count - 1, 1)
                new = {"mean": mean.reshape(-1), "var": unbiased.reshape(-1)}
                updated = {k: 0.9 * running[k] + 0.1 * new[k] for k in new}
                self.updated["/".join(path)] = updated
            else:
                mean, var = running["mean"], running["var"]
                mean, var = row(mean), row(var)
        y = (y - mean) * jax.lax.rsqrt(var + EPSILON)
        return y * row(params["scale"]) + row(params["bias"])

    def pointwise(self, path, x, mask):
        kernel, bias = self.convolution(path)
        return at(mask, x @ kernel[0, 0] + row(bias))

    def convolution(self, path):
        found = self.find("params", (*path, "conv"))
        return found["kernel"], found.get("bias", 0.0)

    def find(self, collection, path):
        found = self.variables[collection]
        for name in path:
            found = found[name]
        return found


def row(values):
    """Values of the features, to be added to images of them."""
    return jnp.asarray(values).reshape(1, 1, 1, -1)


def at(mask, x):
    """Features where the mask is, zeros elsewhere."""
    return jnp.where(mask[..., None], x, 0)


def convolution(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def same(x, kernel):
    return convolution(x, kernel, (1, 1), "SAME")


def strided(x, kernel):
    return convolution(x, kernel, (2, 2), "VALID")


def transposed(x, kernel):
    """Each pixel becomes 2 x 2, each by its own part of the kernel."""
    images, height, width, _ = x.shape
    y = jnp.einsum("nhwc,ijcf->nhiwjf", x, kernel)
    return y.reshape(images, 2 * height, 2 * width, -1)
