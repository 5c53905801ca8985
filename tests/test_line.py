"""The assembly line: in order, bounded, and at its first failure at an end."""

from __future__ import annotations

import threading
import time

import pytest

from dualstylegan.runtime.line import QUEUE_ITEMS, Line


def test_a_line_hands_items_on_in_order_and_one_failure_ends_it():
    def numbers():
        yield from range(1000)

    with Line() as line:
        doubled = line.ahead(
            (2 * n for n in line.ahead(numbers(), "one", nbytes=lambda n: 1)), "two", nbytes=lambda n: 1
        )
        assert list(doubled) == [2 * n for n in range(1000)]
    assert set(line.cpu_s) == {"one", "two"}

    with pytest.raises(ZeroDivisionError), Line() as line:
        for _ in line.ahead((1 // (5 - n) for n in numbers()), "fails", nbytes=lambda n: 1):
            pass


def test_a_line_is_bounded_in_bytes_and_in_items():
    produced = []

    def heavy(size):
        for n in range(500):
            produced.append(n)
            yield size

    for size, most in ((1, QUEUE_ITEMS + 3), (10 << 20, 6), (1 << 40, 4)):
        produced.clear()
        with Line() as line:
            items = line.ahead(heavy(size), "heavy", nbytes=lambda n: n)
            next(items)
            time.sleep(0.2)
            assert len(produced) <= most


def test_what_is_read_ahead_keeps_its_order_and_a_failure_its_place():
    def read(number):
        time.sleep(0.002 * (number % 3))
        return 1 // (number - 4)

    with Line() as line:
        made = list(line.each(range(9), read, "read", nbytes=lambda result: 1))
    assert [number for number, _ in made] == list(range(9))
    assert isinstance(made[4][1], ZeroDivisionError) and made[5][1] == 1


def test_little_is_read_ahead_of_one_who_does_not_take_it():
    read = []
    with Line() as line:
        pictures = line.each(range(100), lambda n: read.append(n) or n, "read", nbytes=lambda n: 1 << 40)
        next(pictures)
        time.sleep(0.1)
        assert len(read) <= 6


def test_what_is_written_behind_holds_no_more_than_its_budget_and_what_is_larger_runs_alone():
    held, most, lock = [0], [0], threading.Lock()

    def write(size):
        with lock:
            held[0] += size
            most[0] = max(most[0], held[0])
        time.sleep(0.005)
        with lock:
            held[0] -= size
        if size == 3:
            raise ValueError("three")

    sizes = [1, 2, 3, 50, 1, 4, 2, 60, 3, 1] * 3
    with Line() as line:
        writer = line.behind("write", threads=3, budget_bytes=5)
        for number, size in enumerate(sizes):
            writer.submit(number, lambda size=size: write(size), nbytes=size)
        ended = dict(writer.drain())
    assert sorted(ended) == list(range(len(sizes)))
    assert all(isinstance(ended[number], ValueError) == (size == 3) for number, size in enumerate(sizes))
    assert most[0] == 60


def test_a_failure_that_is_no_pictures_own_ends_the_line():
    with pytest.raises(ZeroDivisionError), Line() as line:
        list(line.merged([iter(range(3)), (1 // n for n in (1, 0))], "two", line.channel(lambda n: 1)))
