"""Comparisons with other implementations are made in float64."""

import pytest


@pytest.fixture(autouse=True)
def _compare_in_double_precision(double_precision: None) -> None:
    """Use the fixture ``double_precision`` in every test of this folder."""
