"""Threads compute on the cores they are given."""

from __future__ import annotations

import threading

import torch

from dualstylegan.runtime.cores import use_cores


def test_a_thread_keeps_its_cores_when_others_are_given_more():
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def work() -> None:
        use_cores(1)
        begun.set()
        go_on.wait()
        torch.rand(512, 512).square()  # the first thing computed here
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    try:
        torch.set_num_threads(2)
        go_on.set()
        thread.join()
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
