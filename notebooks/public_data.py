"""The public data sets that a notebook can switch to, through Hugging Face `datasets`.

Each is downloaded on its first use, by nothing else than a call here. `source` is the
name of a repository on the Hub, or of a folder with files of the same columns.
"""

import io
from typing import NamedTuple

import datasets
import numpy as np
import soundfile

from experiments import Split

SAMPLE_RATE = 16_000


class Speech(NamedTuple):
    """Waves of shape (count, 16000), one second from -1 to 1, and word numbers."""

    waves: np.ndarray
    labels: np.ndarray
    words: tuple[str, ...]  # by label


def cifar10(source: str = "uoft-cs/cifar10") -> tuple[Split, Split, Split]:
    """CIFAR-10: images (count, 32, 32, 3) from 0 to 1, and their classes.

    A tenth of the training images, the last ones, are for validation.
    """
    loaded = datasets.load_dataset(source).with_format("numpy")
    train, test = (
        Split(
            np.asarray(part["img"][:], np.float32) / 255,
            np.asarray(part["label"][:], np.int32),
        )
        for part in (loaded["train"], loaded["test"])
    )
    held_out = len(train.labels) // 10
    return (
        Split(train.images[:-held_out], train.labels[:-held_out]),
        Split(train.images[-held_out:], train.labels[-held_out:]),
        test,
    )


def speech_commands(
    source: str = "google/speech_commands", revision: str = "refs/convert/parquet"
) -> tuple[Speech, Speech, Speech]:
    """Speech Commands v0.02: all 35 words, and silence after shorter recordings.

    The repository itself holds a script, which `datasets` no longer runs: this revision
    has the same data in files.
    """
    loaded = datasets.load_dataset(source, "v0.02", revision=revision)
    # Decoding by `datasets` itself would need torch.
    loaded = loaded.cast_column("audio", datasets.Audio(decode=False))

    def read(part: datasets.Dataset) -> Speech:
        names = part.features["label"].names
        words = tuple(name for name in names if name != "_silence_")  # It comes last.
        part = part.filter(lambda label: label < len(words), input_columns="label")
        waves = np.zeros((len(part), SAMPLE_RATE), np.float32)
        for wave, audio in zip(waves, part["audio"], strict=True):
            samples, _ = soundfile.read(io.BytesIO(audio["bytes"]), dtype="float32")
            count = min(len(samples), SAMPLE_RATE)
            wave[:count] = samples[:count]
        return Speech(waves, np.asarray(part["label"], np.int32), words)

    return read(loaded["train"]), read(loaded["validation"]), read(loaded["test"])


def wikitext(
    source: str = "Salesforce/wikitext", name: str = "wikitext-103-raw-v1"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """WikiText as it was written: bytes for training, validation and test."""
    loaded = datasets.load_dataset(source, name)

    def read(part: datasets.Dataset) -> np.ndarray:
        return np.frombuffer("".join(part["text"]).encode(), np.uint8)

    return read(loaded["train"]), read(loaded["validation"]), read(loaded["test"])
