"""How many cores torch computes on, thread by thread."""

from __future__ import annotations


def use_cores(count: int) -> None:
    """Let torch compute on `count` cores in this thread, whatever others use.

    That also changes what threads begin with that have not computed anything yet. So whoever starts threads waits until
    each has called this, and then sets its own number again.
    """
    import torch

    # A thread takes over the number that was set last, wherever that was, when torch first needs it there: being asked
    # for it here, it cannot do so later on and undo what is set now.
    torch.get_num_threads()
    torch.set_num_threads(count)
