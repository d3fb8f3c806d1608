"""A sweep's pictures: what nothing beats, and what colours the curves."""

from reformer_dist.reports import sweep as pictures
from reformer_dist.reports.sweep import front
from reformer_dist.tracking.trials import Trial
from tests.tuning.trials import finished


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1.0, 3.0), (2.0, 2.0), (3.0, 3.0), (2.0, 4.0), (4.0, 3.5)]
    assert front(points, maximize=False) == [0, 1]
    assert front(points, maximize=True) == [1, 2, 4]


def test_every_varying_field_colours_the_curves_and_the_front_is_named() -> None:
    values = [{"model.layers": "lsh", "model.num_hashes": n} for n in (1, 4)] + [{"model.layers": "full"}]
    trials = [finished(Trial(index, each), 3.0 - index) for index, each in enumerate(values)]
    curves = [[(10, 5.0), (20, trial.metrics["validation/bits_per_token"])] for trial in trials]
    panels = pictures.learning_curves(trials, curves).axes
    assert [panel.get_legend().get_title().get_text() for panel in panels] == ["layers", "num_hashes"]
    assert [text.get_text() for text in panels[1].get_legend().get_texts()] == ["1", "4", "not used"]
    assert [line.get_xydata().tolist() for line in panels[1].lines] == [[[10, 5], [20, 3 - i]] for i in range(3)]
    (legend,) = pictures.pareto(trials).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        " 1   layers lsh, num_hashes 1",  # the fastest
        " 2   layers lsh, num_hashes 4",
        " 3   layers full",  # the lowest loss
    ]
