"""Runs the kernels' tests in Triton's interpreter."""

from pathlib import Path

import pytest

from tests.kernels import interpreting

HERE = Path(__file__).parent
# Two to a process, for the imports' sake; and how many tests there are at least.
PROMISES = (
    (("test_sparse_linear.py", "test_sparse_linear_8bit.py"), 75),
    (("test_elementwise.py", "test_linear.py"), 120),
)


@interpreting.NEEDED
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("names", "least"), PROMISES)
def test_the_kernels_are_right_in_the_interpreter(names: tuple[str, ...], least: int) -> None:
    assert interpreting.passed(*(HERE / name for name in names)) > least
