"""The proof can fail: two guards are taken away, and each is missed at once. All of them: tests.chaos.mutations."""

import pytest

from tests.chaos.mutations import MUTATIONS, passage, prove

QUICK = ("a claim is known by its job alone", "an attempt is closed twice")


@pytest.mark.timeout(600)  # it is work, and the machine may be busy
@pytest.mark.parametrize("name", QUICK)
def test_a_missing_guard_is_noticed(name: str) -> None:
    (mutation,) = [mutation for mutation in MUTATIONS if name in mutation.name]
    assert prove(mutation) is not None


def test_every_guard_is_where_the_list_says() -> None:
    for mutation in MUTATIONS:
        assert passage(mutation).suffix == ".py"
