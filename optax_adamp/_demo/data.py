"""The images: 8 x 8 handwritten digits that come with scikit-learn."""

from typing import NamedTuple, cast

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Data(NamedTuple):
    """Images of shape (images, pixels) with values from 0 to 1, and their digits."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load() -> Data:
    """A quarter of the images is held out: always the same one, with all digits."""
    loaded = load_digits(return_X_y=True)
    pixels, digits = cast(tuple[np.ndarray, np.ndarray], loaded)
    images = np.asarray(pixels / 16, np.float32)
    labels = np.asarray(digits, np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0
    )
    return Data(images[train], labels[train], images[test], labels[test])
