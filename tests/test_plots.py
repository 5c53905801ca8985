"""Curves of a run: drawn from whatever was logged."""

import numpy as np

from dualstylegan.media.plots import LINE, line_plots


def inked(page: np.ndarray) -> np.ndarray:
    """Where the mean's line runs: (row, column) of its pixels."""
    return np.argwhere((page == LINE).all(-1))


def test_a_falling_figure_falls_on_the_page():
    steps = np.arange(200)
    places = inked(line_plots({"loss": (steps, 1 / (1 + steps))}))
    left, right = (places[places[:, 1] == column, 0].mean() for column in (places[:, 1].min(), places[:, 1].max()))
    assert right > left + 50  # rows count downwards


def test_every_figure_has_a_plot_of_its_own():
    one = line_plots({"a": ([0, 1], [1, 2])})
    four = line_plots({name: ([0, 1], [1, 2]) for name in "abcd"}, title="run")
    assert four.shape[0] > 2 * one.shape[0] - 40
    assert four.shape[1] > 2 * one.shape[1]


def test_what_is_not_a_number_breaks_nothing():
    page = line_plots({"a": ([0, 1, 2], [float("nan"), float("inf"), 1.0]), "b": ([], []), "c": ([3], [0.5])})
    assert page.dtype == np.uint8
    assert line_plots({}).ndim == 3
