"""Who is next: a pure choice, and an honest reason where there is none."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from farm.domain.states import Wish
from farm.domain.worker import Worker
from farm.scheduling.lanes import LaneView, Reason, lane_id, next_lane

NOW = datetime(2026, 11, 3, 12, tzinfo=UTC)
WORKER = Worker("w1", "n1", "gpu-1", "Test GPU", 1, (), Wish.RUN, "idle", NOW, NOW, 0, None)


def lane(owner="a", interactive=True, vt=0.0, weight=1.0, waiting=1, running=0, closed=None):
    cls = "interactive" if interactive else "bulk"
    return LaneView(lane_id(owner, "p", interactive, "m"), cls, "m", vt, weight, waiting, running, closed)


def chosen(*lanes):
    choice = next_lane(lanes, WORKER, NOW)
    assert isinstance(choice, LaneView), choice
    return choice


def test_a_lane_is_named_by_owner_project_class_and_model():
    assert lane_id("ann", "film", True, "demo-t2v") == "ann/film/interactive/demo-t2v"
    assert lane_id("ann", "film", False, "demo-t2v") == "ann/film/bulk/demo-t2v"


def test_interactive_goes_before_bulk_however_much_it_has_had():
    fast, slow = lane("a", True, vt=1000), lane("b", False, vt=0)
    assert chosen(slow, fast) is fast


def test_the_lane_that_has_had_least_goes_first():
    first, second = lane("b", vt=1), lane("a", vt=2)
    assert chosen(second, first) is first


def test_among_equals_the_one_with_fewer_running_for_its_weight_goes_first():
    one, two = lane("a", running=4, weight=1), lane("b", running=4, weight=2)
    assert chosen(one, two) is two


def test_lanes_without_jobs_or_closed_are_passed_over():
    empty, closed, open_ = lane("a", waiting=0), lane("b", closed="night only"), lane("c", vt=9)
    assert chosen(empty, closed, open_) is open_


def test_at_equal_weights_no_owner_waits_for_anothers_whole_backlog():
    backlog, newcomer = lane("a", waiting=100), lane("b", waiting=3)
    order = []
    for _ in range(6):
        turn = chosen(backlog, newcomer)
        order.append(turn.id[0])
        paid = replace(turn, waiting=turn.waiting - 1, virtual_time=turn.virtual_time + 10)
        backlog, newcomer = (paid, newcomer) if turn is backlog else (backlog, paid)
    assert order == ["a", "b"] * 3


@pytest.mark.parametrize(
    ("worker", "lanes", "code"),
    [
        (replace(WORKER, state="gone"), [lane()], "worker_gone"),
        (replace(WORKER, wish=Wish.DRAIN), [lane()], "worker_unwilling"),
        (WORKER, [], "nothing_waits"),
        (WORKER, [lane(waiting=0)], "nothing_waits"),
        (WORKER, [lane(closed="budget spent")], "lanes_closed"),
    ],
)
def test_where_there_is_none_it_says_why(worker, lanes, code):
    reason = next_lane(lanes, worker, NOW)
    assert isinstance(reason, Reason)
    assert reason.code == code
    assert reason.sentence.endswith((".", "budget spent"))
