"""The demo from the images to the tables."""

from collections.abc import Iterable

import jax
import optax
from tqdm import tqdm

from optax_adamp._demo import data, report, training
from optax_adamp._demo.optimizers import OPTIMIZERS


def run(
    names: list[str], *, epochs: int, seeds: Iterable[int]
) -> dict[str, training.History]:
    """Trains with the named optimizers, reports, and returns what the report shows.

    Args:
      names: Keys of `OPTIMIZERS`.
      epochs: Passes through the training images.
      seeds: A network is trained from each, with each optimizer and learning rate.
    """
    seeds = [*seeds]
    digits = data.load()
    plan = report.introduction(names, digits, epochs=epochs, seeds=len(seeds))
    print(plan, flush=True)
    start = training.start(seeds)
    # At a constant rate only AdamW and SGD would come to rest, because their norms
    # grow: a comparison of schedules. This one lets all of them.
    cosine = optax.cosine_decay_schedule(1, epochs * training.steps_per_epoch(digits))

    def train(name: str) -> training.History:
        optimizer = OPTIMIZERS[name]

        def make(rate: jax.Array) -> optax.GradientTransformation:
            return optimizer.make(lambda count: rate * cosine(count))

        progress = _progress(optimizer.label, epochs)
        return training.train(make, optimizer.rates, start, digits, progress)

    histories = {name: train(name) for name in names}
    for part in (report.table(histories, digits), report.comparisons(histories)):
        if part:
            print(f"\n{part}")
    return histories


def _progress(label: str, epochs: int) -> Iterable[int]:
    with tqdm(
        total=epochs,
        desc=f"{label:5} compiling",
        bar_format="{desc:15}{percentage:3.0f}% {bar} {n}/{total} epochs, {elapsed}",
        # Silent where nobody watches: in a log file a bar is a heap of lines.
        disable=None,
    ) as bar:
        for epoch in range(epochs):
            yield epoch
            bar.set_description_str(f"{label:5} training", refresh=False)
            bar.update()
