"""Marks for parametrizations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

# A channel's ``lend_limit``, and how a large message of bytes travels with it.
BOTH_WAYS = [pytest.param(0, id="in parts"), pytest.param(None, id="lent")]


def slow_in(those: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """The values, of which those are slow. Another one may be a parameter with marks already."""
    long = list(those)
    return [pytest.param(value, marks=pytest.mark.slow) if value in long else value for value in values]


def slow_but(quick: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """The values, all slow but those that are quick."""
    kept = list(quick)
    return [value if value in kept else pytest.param(value, marks=pytest.mark.slow) for value in values]
