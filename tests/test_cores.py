"""Threads compute on the cores they are given."""

from __future__ import annotations

import torch

from dualstylegan.runtime.threads import start_threads


def test_a_thread_keeps_its_cores_when_others_are_given_more():
    def count() -> int:
        torch.rand(512, 512).square()  # the first thing computed here
        return torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        with start_threads(2, "test") as pool:
            assert torch.get_num_threads() == before
            torch.set_num_threads(2)
            assert [pool.submit(count).result() for _ in range(4)] == [1] * 4
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
