"""The quick form of the histories: some dozens on each database of what `make proof` does ten thousand times."""

from tests.chaos.histories import run_histories

# A round trip to a server costs more than a function call.
COUNTS = {"sqlite": 60, "postgres": 25}


def test_no_history_breaks_a_promise(product: str, in_memory: str) -> None:
    run = run_histories(in_memory, COUNTS[product], first_seed=1)
    assert run.histories >= COUNTS[product]
    assert run.faults > 0
