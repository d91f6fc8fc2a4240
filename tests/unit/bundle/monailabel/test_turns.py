"""One works, a few wait, the rest is told at once."""

import threading

import pytest

from bundle.monailabel.turns import BusyError, Turns


def test_one_at_a_time_and_a_bounded_queue() -> None:
    turns, inside, done = Turns(waiting=1, patience_s=30), [], threading.Event()
    entered = threading.Event()

    def work() -> None:
        with turns.one():
            inside.append(1)
            assert len(inside) == 1
            entered.set()
            done.wait(10)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    while turns._inside < 2:
        pass
    with pytest.raises(BusyError, match="ask again"), turns.one():
        raise AssertionError("a third one got in")
    done.set()
    for thread in threads:
        thread.join(10)
    with turns.one():
        pass


def test_nobody_waits_for_ever_and_a_failure_frees_the_turn() -> None:
    turns = Turns(waiting=1, patience_s=0.01)
    with turns.one(), pytest.raises(BusyError), turns.one():
        pass
    with pytest.raises(KeyError), turns.one():
        raise KeyError
    with turns.one():
        pass
