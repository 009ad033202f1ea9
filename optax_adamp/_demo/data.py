"""The images: digits that come with scikit-learn, each somewhere in clutter."""

from typing import NamedTuple, cast

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIZE = 12  # pixels of an image's side; a digit has 8
PIECE = 4  # pixels of the side of what is cut from other digits
NOISE = 0.1  # standard deviation, where white is 1


class Split(NamedTuple):
    """Images of shape (images, rows, columns, 1), values from 0 to 1, and digits."""

    images: np.ndarray
    labels: np.ndarray


class Data(NamedTuple):
    """Each split is made of digits, and of pieces of digits, that no other has."""

    train: Split
    validation: Split
    test: Split


def load() -> Data:
    """The same images each time; half of the digits are held out."""
    pixels, labels = cast(tuple[np.ndarray, ...], load_digits(return_X_y=True))
    digits = (pixels / 16).reshape(-1, 8, 8)
    train, rest = train_test_split(
        np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=0
    )
    validation, test = train_test_split(
        rest, test_size=0.5, stratify=labels[rest], random_state=0
    )
    rng = np.random.default_rng(0)
    return Data(
        *(
            _cluttered(digits[part], labels[part], copies, rng)
            for part, copies in ((train, 3), (validation, 2), (test, 4))
        )
    )


def _cluttered(
    digits: np.ndarray, labels: np.ndarray, copies: int, rng: np.random.Generator
) -> Split:
    """Each digit so many times, every time elsewhere and beside another piece."""
    own = np.tile(np.arange(len(labels)), copies)
    images = np.zeros((len(own), SIZE, SIZE))
    for image, digit in zip(images, digits[own], strict=True):
        row, column = rng.integers(8 - PIECE + 1, size=2)
        other = digits[rng.integers(len(digits))]
        _paste(image, other[row : row + PIECE, column : column + PIECE], rng)
        _paste(image, digit, rng)
    images = (images + rng.normal(0, NOISE, images.shape)).clip(0, 1)
    return Split(images[..., None].astype(np.float32), labels[own].astype(np.int32))


def _paste(image: np.ndarray, part: np.ndarray, rng: np.random.Generator) -> None:
    row, column = rng.integers(SIZE - len(part) + 1, size=2)
    place = image[row : row + len(part), column : column + len(part)]
    np.maximum(place, part, out=place)
