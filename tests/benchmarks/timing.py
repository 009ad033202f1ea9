"""Times contenders side by side: every round times each of them once."""

import math
import time
from collections.abc import Mapping

import numpy as np

from contenders import Run

Times = dict[str, np.ndarray]

# A timing of less would measure the clock and the launch.
SHORTEST = 0.02


def interleave(runs: Mapping[str, Run], *, rounds: int, seconds: float) -> Times:
    """Times all runs in turn, beginning with another one in every round.

    Args:
      runs: The contenders by name.
      rounds: The least number of rounds.
      seconds: How long to go on with further rounds.

    Returns:
      Seconds a step by contender, an array with one entry a round.
    """
    counts = {name: _steps_in_a_timing(run) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    end = time.perf_counter() + seconds
    while len(times[names[0]]) < rounds or time.perf_counter() < end:
        for name in names:
            started = time.perf_counter()
            runs[name].steps(counts[name])
            times[name].append((time.perf_counter() - started) / counts[name])
        names.append(names.pop(0))
    return {name: np.array(values) for name, values in times.items()}


def median_ratio(times: Times, name: str, baseline: str) -> tuple[float, float, float]:
    """The median over the rounds of a ratio of times, and its quartiles."""
    low, median, high = np.percentile(times[name] / times[baseline], (25, 50, 75))
    return float(median), float(low), float(high)


def _steps_in_a_timing(run: Run) -> int:
    run.steps(2)  # The first ones touch memory that was never used.
    started = time.perf_counter()
    run.steps(1)
    return math.ceil(SHORTEST / max(time.perf_counter() - started, 1e-6))
