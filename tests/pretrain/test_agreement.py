"""Decisions that all workers of a trial make together; a function takes the place of the other worker."""

import threading
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from mdssl.pretrain import stopping
from mdssl.pretrain.stopping import Agreement, StoppedError


def test_unless_stopped_returns_the_result_or_raises_the_error():
    agreement = Agreement(lambda: False, "cpu")
    assert agreement.unless_stopped(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        agreement.unless_stopped(lambda: 1 / 0)
    assert agreement.unless_stopped(None) is None, "as on the workers that wait"
    assert agreement.unless_stopped(lambda: threading.current_thread().daemon), "it does not keep the process alive"
    assert (agreement.least(3), agreement.any_worker(True), agreement.any_worker(False)) == (3, True, False)


@pytest.fixture
def other_worker(monkeypatch):
    """The answers of a second worker, which a test changes, and those that it has received."""
    worker = SimpleNamespace(answers=[], received=[])

    def all_reduce(values: torch.Tensor, operation) -> None:
        assert operation == dist.ReduceOp.MAX
        worker.received.append(values.tolist())
        values.copy_(torch.maximum(values, torch.tensor(worker.answers)))

    process_group = SimpleNamespace(
        is_initialized=lambda: True,
        get_rank=lambda: 0,
        get_world_size=lambda: 2,
        all_reduce=all_reduce,
        ReduceOp=dist.ReduceOp,
    )
    monkeypatch.setattr(stopping, "dist", process_group)
    return worker


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which a test changes."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stopping, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.mark.parametrize(
    ("own", "others", "exchanges"),
    [(0.1, 0.25, [0, 1, 5, 9, 13, 17]), (0.25, 0.1, [0, 1, 5, 9, 13, 17]), (2.0, 0.1, [*range(20)]), (0, 0, [0, 1])],
    ids=["the other is slower", "this one is slower", "more than a second", "no time at all"],
)
def test_workers_ask_each_other_once_a_second_of_the_slowest(other_worker, clock, own, others, exchanges):
    agreement, found = Agreement(lambda: False, "cpu"), []
    other_worker.answers = [0.0, others, 0.0]
    for step in range(20):
        before = len(other_worker.received)
        assert agreement.stop_after(step) is False
        if len(other_worker.received) > before:
            found.append(step)
        assert agreement.second_passed() == (step in found) and not agreement.second_passed()
        clock.now += own
    assert found == exchanges
    assert [speed for _, speed, _ in other_worker.received[1:]] == pytest.approx([own] * (len(found) - 1))


def test_all_workers_do_what_one_of_them_wants(other_worker, clock):
    wants = {"stop": False}
    agreement = Agreement(lambda: wants["stop"], "cpu")
    for others_stop, own_stop, others_save, own_save in ((0, 0, 1, 0), (1, 0, 0, 1), (0, 1, 0, 0)):
        other_worker.answers, wants["stop"] = [others_stop, 2.0, others_save], bool(own_stop)
        clock.now += 2
        step = agreement.next_step
        assert agreement.stop_after(step, wants_to_save=bool(own_save)) is bool(others_stop or own_stop)
        assert agreement.saves is bool(others_save or own_save)
        assert other_worker.received[-1][0::2] == [own_stop, own_save]
    other_worker.answers = [1.0]
    assert agreement.any_worker(False) is True
    other_worker.answers = [-3.0]
    assert (agreement.least(5), agreement.least(2)) == (3, 2)


def test_waiting_workers_stop_with_the_working_one(other_worker):
    agreement = Agreement(lambda: False, "cpu")
    other_worker.answers = [1.0, 0.0]
    assert agreement.unless_stopped(lambda: 7) == 7, "the work was done before the request"
    other_worker.answers = [1.0, 1.0]
    with pytest.raises(StoppedError):
        agreement.unless_stopped(None)


def test_a_single_worker_asks_after_each_step_and_reports_once_a_second(clock):
    wants = {"stop": False}
    agreement = Agreement(lambda: wants["stop"], "cpu")
    assert agreement.second_passed() and not agreement.second_passed()
    for seconds, passed in ((0.5, False), (0.5, True), (0.75, False), (0.5, True)):
        clock.now += seconds
        assert agreement.second_passed() is passed
    for step, asked in enumerate((True, False, True)):
        wants["stop"] = asked
        assert agreement.stop_after(step, wants_to_save=not asked) is asked and agreement.saves is not asked
