"""The benchmark of sequence parallelism: its workers, what follows from its figures, and what it writes."""

from pathlib import Path

from reformer_dist.benchmarks.parallel import report as parallel_report
from reformer_dist.benchmarks.parallel.shards import Memory, Time, make_config
from reformer_dist.benchmarks.parallel.worker import start_workers


def test_workers_measure_a_step() -> None:
    config = make_config(2, "heads", 256, 64)
    with start_workers(config) as workers:
        first, second = workers.call(256)
    for step in (first, second):
        assert 0 < step.waited < step.seconds
        assert step.cpu_seconds > 0
        assert step.peak_mib > 0
    model, near = config.model, config.model.convolution_reach[0]
    tokens = model.layers.count("local") * (model.local_window - 1) + 2 * len(model.layers) * near
    assert second.bytes_sent > 0
    # The first lends a window to a local layer, and what convolutions reach to all layers, again in the replay; the second
    # returns the gradients. The second lends an LSH layer the next value, likewise.
    tokens -= model.layers.count("lsh")
    assert first.bytes_sent - second.bytes_sent == tokens * model.embed_dim * 4


def test_longest_sequence_is_on_the_line_through_two_peaks() -> None:
    assert parallel_report.longest_sequence([1000, 3000], [124.0, 324.0]) == (0.1, 10_000)


def test_tables_and_files(tmp_path: Path) -> None:
    times = [Time(512, "none", 1, 8, 4.0, 4.0, 0.0, 0.0, 1.0), Time(512, "heads", 2, 8, 2.0, 4.1, 0.1, 3.0, 2.0)]
    times.append(Time(512, "heads", 2, 16, 4.4, 8.1, 0.1, 6.0, 1.1))
    text = parallel_report.time_table(times)
    assert "2.00 x as fast" in text
    assert "1.10 x its time for twice the tokens" in text
    peaks = {("none", 1): (100.0, 200.0), ("heads", 2): (60.0, 110.0)}
    memories = [
        Memory(*case, length, peak) for case, both in peaks.items() for length, peak in zip((8, 16), both, strict=True)
    ]
    assert [line.split()[-1] for line in parallel_report.memory_table(memories).splitlines()[1:]] == ["81", "162"]
    paths = parallel_report.write(tmp_path, times, memories)
    assert [path.name for path in paths] == ["parallel-time.csv", "parallel-memory.csv", "parallel.png"]
    assert all(path.stat().st_size > 100 for path in paths)
