"""Names the sets of events on which accuracies are compared."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class BenchmarkFile:
    """Describes one file of a set: events 0 to `events - 1` of a seed."""

    name: str
    events: int
    seed: int


# Seeds are far from the small numbers that people try out.
BENCHMARK_SETS = {
    "quickstart": (
        BenchmarkFile("train", 1000, 30_001),
        BenchmarkFile("validation", 100, 30_002),
    ),
    "small": (
        BenchmarkFile("train", 400, 20_001),
        BenchmarkFile("validation", 100, 20_002),
        BenchmarkFile("test", 100, 20_003),
    ),
    "large": (
        BenchmarkFile("train", 20_000, 20_011),
        BenchmarkFile("validation", 2_000, 20_012),
        BenchmarkFile("test", 2_000, 20_013),
    ),
}
"""By name: training, validation and test file; default image shape and constants."""
