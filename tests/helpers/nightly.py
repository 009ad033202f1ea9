"""Cases of a test of which some run every day."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def nightly_but(every_day: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases for `parametrize`, those that are not for every day marked nightly.

    A tuple has a value for each of several arguments.
    """
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in every_day else pytest.mark.nightly,
        )
        for case in cases
    ]
