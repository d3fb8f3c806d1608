"""The picture of a learning curve shows what was measured."""

from reformer_dist.reports.learning_curve import learning_curve


def test_every_point_and_the_baseline_are_there() -> None:
    figure = learning_curve([(1, 8.0), (2, 6.0), (3, 5.0)], [(3, 5.5)], ("a unigram model", 4.9), 1000, "byte")
    curves = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert [[1.0, 8.0], [2.0, 6.0], [3.0, 5.0]] in curves
    assert [[3.0, 5.5]] in curves
    assert [[0.0, 4.9], [1.0, 4.9]] in curves
