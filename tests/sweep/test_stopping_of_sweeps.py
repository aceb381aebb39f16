"""Requests to stop and decisions of a scheduler, which travel through a key-value store; here it is a dictionary."""

import io
import time
from types import SimpleNamespace

import pytest
from processes import wait_for
from rich.console import Console

from mdssl.sweep import stopping


class Store(dict):
    """Ray's key-value store, and the job that uses it."""

    job = "01"

    def key(self, *what: str) -> bytes:
        return "-".join(("mdssl", self.job, *what)).encode()


@pytest.fixture
def store(monkeypatch):
    store = Store()
    functions = {
        "put": store.__setitem__,
        "get": store.get,
        "exists": store.__contains__,
        "del": store.pop,
        "list": lambda start: [key for key in store if key.startswith(start)],
    }
    functions = {f"_internal_kv_{name}": function for name, function in functions.items()}
    monkeypatch.setattr(stopping, "internal_kv", SimpleNamespace(**functions))
    context = SimpleNamespace(get_job_id=lambda: store.job)
    monkeypatch.setattr(stopping.ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(stopping.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(stopping, "_LOOK_SECONDS", 0.01)
    return store


def test_a_request_is_for_one_trial_or_the_whole_sweep(store, monkeypatch):
    assert not stopping.stop_requested() and not stopping.stop_requested("a")
    store[store.key("stop", "a")] = b""
    assert stopping.stop_requested("a") and not stopping.stop_requested("b") and not stopping.stop_requested()
    store[store.key("stop")] = b""
    assert stopping.stop_requested("b") and stopping.stop_requested()
    store.job = "02"
    assert not stopping.stop_requested("a"), "that of another sweep"
    monkeypatch.setattr(stopping.ray, "is_initialized", lambda: False)
    store.job = "01"
    assert not stopping.stop_requested(), "a process outside of Ray"


def test_workers_look_for_a_request_once_in_a_while(store, monkeypatch):
    looks, clock = [], iter([10.0, 10.0, 10.5, 11.0, 11.0, 11.9])
    monkeypatch.setattr(stopping, "_LOOK_SECONDS", 1.0)
    monkeypatch.setattr(stopping.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(stopping, "stop_requested", lambda token: looks.append(token) or len(looks) == 2)
    requested = stopping.stop_requested_now_and_then("a")
    assert [requested(), requested(), requested(), requested()] == [False, False, True, True]
    assert looks == ["a", "a"]


def test_records_are_deleted_at_the_end_of_their_sweep(store):
    store[b"mdssl-02-stop"] = b""
    stopping.put_decision("t", 3, ends=True)
    store[store.key("stop")] = b""
    stopping.delete_records()
    assert set(store) == {b"mdssl-02-stop"}


def test_a_trial_gets_the_decision_on_its_own_score(store, monkeypatch):
    stopping.put_decision("t", 3, ends=True)
    stopping.put_decision("t", 6, ends=False)
    assert (stopping.decision("t", 3), stopping.decision("t", 6)) == (True, False)
    monkeypatch.setattr(stopping, "_DECISION_SECONDS", 0.01)
    assert stopping.decision("t", 9) is False, "no answer in time"
    monkeypatch.setattr(stopping, "_DECISION_SECONDS", 100.0)
    store[store.key("stop")] = b""
    began = time.monotonic()
    assert stopping.decision("t", 9) is False, "the sweep stops"
    assert time.monotonic() - began < 50


@pytest.mark.parametrize("reason", ["terminated", "asked"])
def test_the_request_to_a_trial_reaches_its_workers_and_is_deleted_at_its_end(store, monkeypatch, reason):
    monkeypatch.setattr(stopping.os, "kill", lambda *arguments: pytest.fail("it stops in time"))
    happened = []
    with stopping.passing_on(lambda: reason in happened and reason == "terminated", "a", lambda: "asked" in happened):
        time.sleep(0.05)
        assert not store
        happened.append(reason)
        wait_for(lambda: stopping.stop_requested("a"), 10)
        assert set(store) == {store.key("stop", "a")}
    assert not store


@pytest.fixture
def told(monkeypatch):
    """Whether Tune was told to end, each time it was."""
    told = []
    monkeypatch.setattr(stopping, "end_tune", lambda: told.append(True))
    return told


def trial(name, status="RUNNING", state="training"):
    return SimpleNamespace(trial_id=name, status=status, last_result={"state": state} if state else {})


def test_tune_ends_when_the_trials_that_train_have_stopped(store, told):
    out = io.StringIO()
    stop = stopping.Stop(Console(file=out, width=40))
    running = [trial("a"), trial("b", state=None), trial("c", state="evaluating"), trial("d", "PENDING")]
    stop.callback.on_step_begin(1, running)
    assert not store and not out.getvalue(), "nothing was asked"
    stop.signals.append(15)
    stop.callback.on_step_begin(2, running)
    assert set(store) == {store.key("stop")} and not told
    assert out.getvalue() == "SIGTERM: 2 trial(s) save a checkpoint and stop; a second signal stops at once\n"
    stop.callback.on_step_begin(3, [trial("a", "TERMINATED"), trial("b"), trial("new")])
    assert not told, "b has not stopped"
    stop.callback.on_step_begin(4, [trial("b", "TERMINATED"), trial("new")])
    assert told == [True], "a trial that began later is not waited for"
    assert len(out.getvalue().splitlines()) == 1


def test_tune_ends_although_a_trial_does_not_stop_in_time(store, told, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    stop = stopping.Stop(Console(file=out), seconds=60)
    clock[0] = 159.9
    assert not stop.is_asked
    clock[0] = 160.0
    assert stop.is_asked
    stop.callback.on_step_begin(1, [trial("a")])
    assert out.getvalue().startswith("time budget used up: 1 trial(s)")
    assert "the same command resumes them" in out.getvalue().replace("\n", " ")
    clock[0] += stopping.WAIT_SECONDS
    stop.callback.on_step_begin(2, [trial("a")])
    assert not told
    clock[0] += 0.1
    stop.callback.on_step_begin(3, [trial("a")])
    assert told == [True]
