"""The page that compares runs: nothing of a run can break it, and what it says is what the runs are."""

from html.parser import HTMLParser

from reformer_dist.reports.comparison import differences, figures, labels, minutes, page
from reformer_dist.tracking.records import Point, RunRecord


def make_run(id: str, name: str, *, steps: int = 3, sample: str = "", **parameters: str) -> RunRecord:
    """A run whose loss falls by a half a step, a minute each."""
    base = {"train.batch_size": "2", "data.sequence_length": "1000", "train.run_name": name, "model.num_hashes": "4"}
    train = [Point(step, 60_000 * step, 8.0 - step / 2) for step in range(1, steps + 1)]
    curves = {
        "train/bits_per_token": train,
        "train/tokens_per_second": [Point(p.step, p.milliseconds, 100.0 * p.step) for p in train],
        "validation/bits_per_token": [Point(2, 120_000, 6.25), Point(3, 180_000, 6.5)][: steps - 1],
        "hashing/caught": [Point(2, 0, 0.5), Point(3, 0, 0.625)],
        "memory/worker_0_mib": [Point(2, 0, 500.0)],
        "memory/worker_1_mib": [Point(2, 0, 700.0)],
    }
    return RunRecord(id, name, "FINISHED", base | parameters, {k: v for k, v in curves.items() if v}, sample)


def test_figures_are_those_of_the_runs() -> None:
    rows = {name: values for name, *values in figures([make_run("a1", "a"), make_run("b2", "b", steps=1)])}
    assert rows["steps"] == ["3", "1"]
    assert rows["training, bits a token"] == ["6.500", "7.500"]
    assert rows["held out, bits a token"] == ["6.500", "-"]
    assert rows["held out, best"] == ["6.250", "-"]
    assert rows["tokens/s, median"] == ["200", "100"]
    assert rows["peak MiB of the largest worker"] == ["700", "700"]
    assert (rows["attention mass caught"], rows["keys that a query sees"]) == (["0.625", "0.625"], ["-", "-"])
    assert minutes(make_run("a1", "a")) == [0.0, 1.0, 2.0]


def test_only_what_differs_is_listed() -> None:
    runs = [make_run("a1", "a"), make_run("b2", "b", **{"model.num_hashes": "8", "model.added": "1"})]
    assert differences(runs) == [["model.added", "-", "1"], ["model.num_hashes", "4", "8"]]
    assert differences(runs[:1]) == []


def test_runs_of_one_name_are_told_apart() -> None:
    assert labels([make_run("aaaaaaaa", "x"), make_run("bbbbbbbb", "x"), make_run("c", "y")]) == [
        "x aaaaaa",
        "x bbbbbb",
        "y",
    ]


def test_a_page_shows_text_as_text() -> None:
    """A run that has logged nothing, and names and samples that look like HTML."""
    empty = RunRecord("c", "empty", "RUNNING", {}, {}, "")
    text = page([make_run("a1", "<b>a</b>", sample="<script>alert(1)</script>"), empty])
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(text)
    assert "script" not in tags
    assert "b" not in tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "no sample" in text
    assert tags.count("img") == 1
