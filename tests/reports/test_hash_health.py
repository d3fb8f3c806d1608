"""The picture of hash health shows what was measured, and copes with what was not."""

from reformer_dist.reports.hash_health import health_picture


def test_every_layer_and_every_other_setting_is_there() -> None:
    curves = {
        "hashing/layer_1/caught": [(50, 0.4), (100, 0.5)],
        "hashing/layer_3/caught": [(50, 0.6), (100, 0.7)],
        "hashing/layer_1/caught_one_round_more": [(50, 0.45), (100, 0.75)],
        "hashing/layer_3/occupancy_entropy": [(50, 0.9), (100, 0.95)],
    }
    caught, occupancy, others = health_picture(curves).axes
    assert [line.get_xydata().tolist() for line in caught.lines] == [
        [[50.0, 0.4], [100.0, 0.5]],
        [[50.0, 0.6], [100.0, 0.7]],
    ]
    assert [line.get_ydata().tolist() for line in occupancy.lines] == [[0.9, 0.95]]
    assert sorted(bar.get_width() for bar in others.patches) == [0.5, 0.7, 0.75]


def test_layers_of_an_encoder_have_their_own_lines() -> None:
    curves = {
        "hashing/encoder_layer_1/caught": [(50, 0.4)],
        "hashing/layer_1/caught": [(50, 0.6)],
        "hashing/layer_10/caught": [(50, 0.7)],
        "hashing/caught": [(50, 0.5)],
    }
    caught, _, others = health_picture(curves).axes
    assert [line.get_label() for line in caught.lines] == ["layer 1", "layer 10", "encoder layer 1"]
    assert [bar.get_width() for bar in others.patches if bar.get_width()] == [0.6, 0.7, 0.4]


def test_what_was_not_measured_has_no_legend() -> None:
    caught, occupancy, _ = health_picture({"hashing/layer_1/caught": [(50, 0.4)]}).axes
    assert caught.get_legend() is not None
    assert occupancy.get_legend() is None
