"""Draws the pixels that noise alone lifts over the threshold."""

import numpy as np

from ctjax.simulation import native
from ctjax.simulation.geometry import PlaneGrid
from ctjax.simulation.parameters import SimulationParameters


def noise_pixels(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    plane: int,
    grid: PlaneGrid,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the stored noise of one plane.

    Quiet volumes have single pixels anywhere. Noisy ones (the rear induction plane of
    each volume) have runs along time, several of them in a burst on one wire: what a
    threshold leaves of noise whose spectrum has a low-frequency part.

    Args:
      parameters: the simulation's constants.
      rng: source of randomness.
      plane: index of the wire plane.
      grid: pixels of the plane.

    Returns:
      ids [N] int64 (column * H + row, neither sorted nor unique) and counts [N]
      float64 above the threshold.
    """
    columns, rows = grid.wired_columns, grid.rows_per_volume
    pixels = rows * (columns[1] - columns[0])
    scale = pixels / (parameters.rows_per_volume * parameters.wires[plane])
    ids, values = [], []
    for place, expected in enumerate(parameters.noise_pixels[plane]):
        noisy = expected > parameters.noisy_half
        mean = expected * scale * rng.normal(1.0, parameters.noise_spread)
        draw = _bursts if noisy else _singles
        column, row, excess = draw(parameters, rng, max(mean, 0.0), columns, rows)
        ids.append(column * grid.shape[0] + row + place * rows)
        values.append(parameters.threshold + excess)
    return np.concatenate(ids), np.concatenate(values)


def _singles(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    mean: float,
    columns: tuple[int, int],
    rows: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws column, row within the volume and excess of independent pixels."""
    number = rng.poisson(mean)
    return (
        rng.integers(*columns, number),
        rng.integers(0, rows, number),
        rng.exponential(parameters.quiet_excess, number),
    )


def _bursts(
    parameters: SimulationParameters,
    rng: np.random.Generator,
    mean: float,
    columns: tuple[int, int],
    rows: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws column, row within the volume and excess of correlated pixels."""
    shares = np.cumsum(parameters.run_shares)
    lengths = np.arange(1, len(shares) + 1)
    mean_length = float((np.diff(shares, prepend=0.0) * lengths).sum() / shares[-1])
    bursts = rng.poisson(mean / (mean_length * parameters.runs_per_burst))
    runs = rng.geometric(1 / parameters.runs_per_burst, bursts)
    gap = rng.standard_exponential(int(runs.sum()))
    start = rng.integers(0, rows, bursts)
    column = rng.integers(*columns, bursts)
    kind = np.searchsorted(shares, rng.random(gap.size) * shares[-1])
    random = rng.standard_exponential(int(lengths[kind].sum()))
    arguments = (
        *(
            parameters.burst_gap_rows,
            rows,
            np.asarray(parameters.run_excess, np.float64),
        ),
        *(runs, gap, start, column, kind, random),
    )
    return native.spread(*arguments) or spread(*arguments)


def spread(
    gap_rows: float,
    num_rows: int,
    mean_excess: np.ndarray,
    runs: np.ndarray,
    gap: np.ndarray,
    start: np.ndarray,
    column: np.ndarray,
    kind: np.ndarray,
    random: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places the runs of bursts; `native.spread` does the same.

    Args:
      gap_rows: mean distance of runs in a burst.
      num_rows: of a volume; what lies beyond is dropped.
      mean_excess: counts of each kind of run.
      runs: [B] int64, of each burst.
      gap: [R] exponential, of each run.
      start: [B] int64 first row.
      column: [B] int64.
      kind: [R] int64, of each run; a run has one pixel more.
      random: [N] exponential, of each pixel.

    Returns:
      Column, row and excess of the pixels.
    """
    burst = np.repeat(np.arange(runs.size), runs)
    first = np.cumsum(runs) - runs
    # Rows within a burst: its start, then gaps that add up from run to run.
    gaps = 1.0 + gap_rows * gap
    gaps[first] = 0.0
    offset = np.cumsum(gaps)
    offset -= offset[first][burst]
    begin = start[burst] + offset.astype(np.int64)
    length = kind + 1
    run = np.repeat(np.arange(burst.size), length)
    within = np.arange(run.size) - np.repeat(np.cumsum(length) - length, length)
    row = begin[run] + within
    excess = mean_excess[kind][run] * random
    kept = row < num_rows
    return column[burst][run][kept], row[kept], excess[kept]
