"""Device faults: the job goes to another GPU, and a GPU with several is set aside until a probe passes."""

import pytest

from farm.db import events, jobs, leases, quarantines, workers
from farm.domain.errors import GpuNotFound
from farm.domain.job import JobError
from farm.domain.states import JobState, Outcome, Wish
from farm.domain.worker import NewWorker
from farm.scheduling.quarantine import QuarantinePolicy
from tests.db.conftest import LANE, register, submit_one

XID = JobError("device_fault", "Xid 79: the GPU has fallen off the bus")


def fault(db, worker="w1", **kwargs):
    """The worker takes its next job, and its GPU faults."""
    given = leases.claim(db, worker, LANE)
    assert given is not None
    assert leases.start(db, given.job, given.epoch)
    assert leases.fail(db, given.job, given.epoch, Outcome.DEVICE_FAULT, XID, **kwargs) is not None
    return given.job


def two_faults(db, worker="w1"):
    """Of two jobs, which go out of the way."""
    for _ in range(2):
        submit_one(db, priority=50)
        jobs.cancel(db, fault(db, worker))


def test_the_job_goes_to_another_gpu_while_one_lives(db):
    register(db, "w1")
    register(db, "w2")
    job_id = submit_one(db).id
    assert fault(db, "w1") == job_id
    assert jobs.get(db, job_id).avoid == ("gpu-w1",)
    workers.register(db, NewWorker("w1-again", "n1", "gpu-w1", "Test GPU", 4712))
    assert leases.claim(db, "w1-again", LANE) is None, "a new process on the same GPU"
    assert fault(db, "w2") == job_id
    assert jobs.get(db, job_id).avoid == ("gpu-w1", "gpu-w2")
    assert leases.claim(db, "w1-again", LANE) is not None, "there is no other left"


@pytest.mark.parametrize("why_not", ["gone", "silent", "draining", "quarantined", "no weights"])
def test_another_gpu_that_could_not_take_it_is_not_waited_for(db, clock, why_not):
    register(db, "w1")
    register(db, "w2")
    submit_one(db)
    fault(db, "w1")
    assert leases.claim(db, "w1", LANE) is None
    if why_not == "gone":
        workers.gone(db, "w2")
    elif why_not == "silent":
        clock.forward(31)
    elif why_not == "draining":
        workers.wish(db, "w2", Wish.DRAIN)
    elif why_not == "quarantined":
        quarantines.put(db, "gpu-w2", "looks odd", "ann")
    else:
        with db.write() as conn:
            conn.exec_driver_sql("""UPDATE workers SET available = '{"demo-t2v": "other"}' WHERE id = 'w2'""")
    assert leases.claim(db, "w1", LANE) is not None


def test_other_jobs_still_go_to_a_gpu_that_one_job_avoids(db):
    register(db, "w1")
    register(db, "w2")
    submit_one(db)
    fault(db, "w1")
    other = submit_one(db)
    given = leases.claim(db, "w1", LANE)
    assert given is not None
    assert given.job == other.id


def test_one_jobs_faults_are_its_own_and_two_jobs_faults_the_gpus(db, clock):
    register(db)
    submit_one(db)
    for _ in range(2):
        clock.forward(10)
        fault(db)
    assert quarantines.find(db) == []
    submit_one(db, priority=1)
    fault(db)
    (found,) = quarantines.find(db)
    assert (found.gpu, found.node, found.by, found.times) == ("gpu-w1", "n1", "faults", 1)
    assert (found.until - found.since).total_seconds() == 900
    assert "2 different jobs" in found.reason
    assert leases.claim(db, "w1", LANE) is None
    told = [event for event in events.read(db, 0)[0] if event.kind == "gpu"]
    assert [(event.subject, event.data["quarantined"]) for event in told] == [("gpu-w1", True)]


def test_faults_far_apart_are_no_pattern(db, clock):
    register(db)
    submit_one(db)
    jobs.cancel(db, fault(db))
    clock.forward(3601)
    submit_one(db)
    fault(db)
    assert quarantines.find(db) == []


def test_the_number_of_faults_is_a_setting(db):
    register(db)
    submit_one(db)
    fault(db, quarantine=QuarantinePolicy(faults=1, seconds=60))
    (found,) = quarantines.find(db)
    assert (found.until - found.since).total_seconds() == 60


def test_when_its_time_is_over_a_probe_comes_first(db, clock):
    register(db)
    two_faults(db)
    submit_one(db)
    assert quarantines.probe_due(db) == []
    assert not quarantines.probe_passed(db, "gpu-w1", "too early"), "nobody asked for a probe yet"
    clock.forward(900)
    assert leases.claim(db, "w1", LANE) is None, "over, but not probed"
    assert [one.gpu for one in quarantines.probe_due(db, "n1")] == ["gpu-w1"]
    assert quarantines.probe_due(db, "n2") == []
    assert quarantines.probe_passed(db, "gpu-w1", "matmul ok")
    assert quarantines.find(db) == []
    assert leases.claim(db, "w1", LANE) is not None
    last = [event for event in events.read(db, 0)[0] if event.kind == "gpu"][-1]
    assert (last.data["quarantined"], last.data["last_probe"]) == (False, "matmul ok")


def test_a_probe_that_fails_doubles_the_time(db, clock):
    register(db)
    two_faults(db)
    clock.forward(900)
    assert quarantines.probe_failed(db, "gpu-w1", "wrong result")
    (found,) = quarantines.find(db)
    assert (found.probes, found.last_probe, found.times) == (1, "wrong result", 2)
    assert (found.until - clock()).total_seconds() == 1800
    assert quarantines.probe_due(db) == []
    assert not quarantines.probe_failed(db, "gpu-w1", "again"), "it was not due"


def test_faults_soon_after_a_release_set_it_aside_for_longer_and_old_ones_do_not_count_again(db, clock):
    register(db)
    two_faults(db)
    clock.forward(900)
    quarantines.probe_passed(db, "gpu-w1", "ok")
    clock.forward(1)
    submit_one(db, priority=50)
    jobs.cancel(db, fault(db))
    assert quarantines.find(db) == [], "the two faults before its quarantine have been paid for"
    submit_one(db, priority=50)
    fault(db)
    (found,) = quarantines.find(db)
    assert (found.times, (found.until - found.since).total_seconds()) == (2, 1800)
    clock.forward(1800)
    quarantines.probe_passed(db, "gpu-w1", "ok")
    clock.forward(86401)
    two_faults(db)
    assert quarantines.find(db)[0].times == 1, "a day of good work is forgiveness"


def test_a_person_sets_aside_and_releases(db, clock):
    register(db)
    submit_one(db)
    assert quarantines.put(db, "gpu-w1", "fan is loud", "ann").until is None
    clock.forward(10**6)
    assert quarantines.probe_due(db) == []
    assert leases.claim(db, "w1", LANE) is None
    assert quarantines.release(db, "gpu-w1", "ann")
    assert not quarantines.release(db, "gpu-w1", "ann")
    assert leases.claim(db, "w1", LANE) is not None
    with pytest.raises(GpuNotFound):
        quarantines.put(db, "gpu-x", "?", "ann")


def test_a_fault_of_a_job_that_still_ran_there_does_not_shorten_what_a_person_said(db):
    register(db)
    submit_one(db)
    given = leases.claim(db, "w1", LANE)
    assert given is not None
    leases.start(db, given.job, 1)
    quarantines.put(db, "gpu-w1", "fan is loud", "ann")
    leases.fail(db, given.job, 1, Outcome.DEVICE_FAULT, XID, quarantine=QuarantinePolicy(faults=1))
    assert [(one.by, one.until) for one in quarantines.find(db)] == [("ann", None)]


def test_a_wish_to_quarantine_outlives_the_process(db):
    register(db)
    submit_one(db)
    assert workers.wish(db, "w1", Wish.QUARANTINE, by="ann", reason="fan is loud").wish is Wish.QUARANTINE
    workers.register(db, NewWorker("w1-again", "n1", "gpu-w1", "Test GPU", 4712))
    assert leases.claim(db, "w1-again", LANE) is None
    workers.wish(db, "w1-again", Wish.RUN, by="ann")
    assert leases.claim(db, "w1-again", LANE) is not None


def test_to_let_a_worker_run_does_not_release_a_gpu_that_faulted(db):
    register(db)
    two_faults(db)
    workers.wish(db, "w1", Wish.RUN, by="ann")
    assert len(quarantines.find(db)) == 1
    assert jobs.counts(db)[JobState.QUEUED] == 0
