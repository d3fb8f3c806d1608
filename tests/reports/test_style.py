"""Bars in groups stand at their rows, the first at the top, each with its value; what is not known has none."""

import pytest

from reformer_dist.reports.style import color, grouped_bars, new_figure


def test_bars_stand_at_their_rows() -> None:
    axes = new_figure(4.0, 3.0).add_subplot()
    grouped_bars(axes, ["first", "second"], {"a": [0.25, 0.5], "b": [None, 0.75]})
    bars = [(bar.get_y() + bar.get_height() / 2, bar.get_width()) for bar in axes.patches]
    assert bars == [pytest.approx(bar) for bar in [(-0.2, 0.25), (0.8, 0.5), (1.2, 0.75)]]
    assert [text.get_text() for text in axes.texts] == ["0.25", "0.50", "0.75"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["first", "second"]
    assert axes.yaxis_inverted()
    assert color(0) != color(1)
