"""One works, a few wait in order, the rest is told at once."""

import threading
import time

import pytest

from bundle.monailabel.turns import BusyError, Turns


def _asks(turns: Turns, numbers: range, started: list[int], gate: threading.Event) -> list[threading.Thread]:
    """Clients that come one after the other; each waits at the gate while it has its turn."""

    def ask(number: int) -> None:
        def work() -> None:
            started.append(number)
            assert gate.wait(10)

        turns.take(work)

    threads = []
    for count, number in enumerate(numbers, start=1):
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
        until = time.monotonic() + 10
        while len(started) + turns._worker._work_queue.qsize() < count and time.monotonic() < until:
            time.sleep(0.001)
    return threads


def test_one_at_a_time_in_order_and_a_bounded_queue() -> None:
    turns, started, gate = Turns(waiting=3, patience_s=30), [], threading.Event()
    threads = _asks(turns, range(4), started, gate)
    with pytest.raises(BusyError, match="3 wait; ask again"):
        turns.take(lambda: pytest.fail("a fifth one got in"))
    assert started == [0]
    gate.set()
    for thread in threads:
        thread.join(10)
    assert started == [0, 1, 2, 3]
    assert turns.take(lambda: "free") == "free"


def test_nobody_waits_for_ever_but_what_has_begun_is_finished() -> None:
    turns, started, gate = Turns(waiting=1, patience_s=0.5), [], threading.Event()
    threads = _asks(turns, range(1), started, gate)
    with pytest.raises(BusyError, match=r"no turn within 0\.5 s"):
        turns.take(lambda: pytest.fail("it was cancelled"))
    gate.set()
    threads[0].join(10)
    assert started == [0]
    assert turns.take(lambda: time.sleep(0.7) or "slow work is no busy server") == "slow work is no busy server"


def test_all_work_is_done_by_one_thread_and_a_failure_frees_the_turn() -> None:
    turns = Turns(waiting=0, patience_s=10)

    def fail() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        turns.take(fail)
    assert turns.take(threading.get_ident) == turns.take(threading.get_ident) != threading.get_ident()
