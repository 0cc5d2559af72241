"""Every target for a moment; `make fuzz` does the same for as long as it is given."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

EXAMPLES = 60


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_any_bytes_end_in_a_documented_way(target: Target) -> None:
    """No case of the target ends in anything that is not documented, nor depends on how its bytes were split."""
    assert target.run(EXAMPLES, random.randrange(2**32)) >= EXAMPLES
