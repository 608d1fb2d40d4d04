"""Changes to the configurations of benchmarks that make them take seconds."""

TINY = {
    "data": {"downsample": 5},
    "network": {
        "n_initial_filters": 2,
        "depth": 2,
        "blocks_per_layer": 1,
        "blocks_deepest_layer": 1,
        "blocks_final": 1,
        "bottleneck_deepest": 4,
    },
}
