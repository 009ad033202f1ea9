"""The axes of the small programs in the tables `programs_*` are found, all of them."""

import pytest

import programs_control
import programs_operations
import programs_uses
from programs import assert_read_well, assert_read_well_with_captured_data

CASES = {
    f"{table}: {name}": case
    for tables in (programs_operations, programs_control, programs_uses)
    for table, cases in tables.TABLES.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_axes(name):
    assert_read_well(CASES[name])


# One captured number chooses the same row at every step: it is no lookup. And what
# captured numbers scale may be masked.
ANOTHER = {f"lookups: {name}" for name in programs_uses.ONE_ROW}
ANOTHER.add("arithmetic: product by hand of one example")


@pytest.mark.parametrize("name", sorted(CASES.keys() - ANOTHER))
def test_captured_data_are_data(name):
    assert_read_well_with_captured_data(CASES[name])
