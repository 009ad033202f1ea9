"""The demo from the images to the tables."""

from collections.abc import Iterable

import optax
from tqdm import tqdm

from optax_adamp._demo import data, report, training
from optax_adamp._demo.optimizers import OPTIMIZERS


def run(
    names: list[str],
    *,
    epochs: int,
    seeds: int,
    learning_rates: dict[str, float],
    weight_decay: float,
) -> dict[str, training.History]:
    """Trains with the named optimizers, reports, and returns what the report shows.

    Args:
      names: Keys of `OPTIMIZERS`.
      epochs: Passes through the training images.
      seeds: Networks to train with each optimizer.
      learning_rates: The first learning rate of each family.
      weight_decay: That of all optimizers.
    """
    digits = data.load()
    print(
        report.introduction(
            names,
            digits,
            epochs=epochs,
            seeds=seeds,
            learning_rates=learning_rates,
            weight_decay=weight_decay,
        ),
        flush=True,
    )

    def make(name: str) -> optax.GradientTransformation:
        optimizer = OPTIMIZERS[name]
        # At a constant rate only AdamW and SGD would come to rest, because their norms
        # grow: a comparison of schedules. This one lets all of them.
        schedule = optax.cosine_decay_schedule(
            learning_rates[optimizer.family],
            decay_steps=epochs * training.steps_per_epoch(digits),
        )
        return optimizer.make(schedule, weight_decay)

    optimizers = {name: make(name) for name in names}
    start = training.start(digits, seeds)
    histories = {
        name: training.train(
            tx, start, digits, _progress(OPTIMIZERS[name].label, epochs)
        )
        for name, tx in optimizers.items()
    }
    seconds = training.time_steps(
        optimizers, start, digits, _progress("Timing", training.TIMED_EPOCHS)
    )
    for part in (
        report.table(histories, seconds, digits),
        report.comparisons(histories, digits),
        report.projections(histories, start.params),
    ):
        if part:
            print(f"\n{part}")
    return histories


def _progress(label: str, epochs: int) -> Iterable[int]:
    # Silent where nobody watches: in a log file a bar is a heap of lines.
    return tqdm(
        range(epochs),
        desc=label,
        bar_format="{desc:7}{percentage:3.0f}% {bar} {n}/{total} epochs, {elapsed}",
        disable=None,
    )
