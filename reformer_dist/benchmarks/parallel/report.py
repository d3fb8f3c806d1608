"""Tables, CSV files and the picture of the benchmark of sequence parallelism.

In: times and memories of steps. Out: text, and paths of what was written.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from matplotlib.figure import Figure

from reformer_dist.benchmarks.parallel.figures import Memory, Time
from reformer_dist.reports.style import COLORS, FAINT, GREY, new_figure, tidy

MEMORY_MIB = 1024.0
"""Memory of a worker for the longest sequence."""
_COLORS = {"none": GREY, "apart": FAINT, "heads": COLORS[0], "buckets": COLORS[1]}


def time_table(times: Sequence[Time]) -> str:
    """Lines by case."""
    heads = ("seconds", "CPU-s", "waiting", "MiB sent")
    lines = [f"{'width':>5} {'exchange':<10}{'workers':>8}{'tokens':>9}{''.join(f'{head:>10}' for head in heads)}"]
    for time in times:
        figures = (time.seconds, time.cpu_seconds, time.waited, time.sent_mib)
        case = f"{time.width:>5} {time.exchange:<10}{time.workers:>8}{time.length:>9,}"
        lines.append(case + "".join(f"{x:>10.2f}" for x in figures))
        if time.workers > 1:
            lines[-1] += f"  {_meaning(time, times[0].length)}"
    return "\n".join(lines)


def memory_table(memories: Sequence[Memory]) -> str:
    """Peaks by exchange and workers, and what follows from them: bytes a token, and the longest sequence that would fit."""
    lengths = sorted({memory.length for memory in memories})
    columns = "".join(f"{f'MiB at {length:,}':>16}" for length in lengths)
    lines = [f"{'exchange':<10}{'workers':>8}{columns}{'KiB a token':>13}{f'longest in {MEMORY_MIB:,.0f} MiB':>22}"]
    for (exchange, workers), peaks in _by_case(memories).items():
        per_token, longest = longest_sequence(lengths, peaks)
        row = "".join(f"{peak:>16,.0f}" for peak in peaks)
        lines.append(f"{exchange:<10}{workers:>8}{row}{per_token * 1024:>13.2f}{longest:>22,}")
    return "\n".join(lines)


def longest_sequence(lengths: Sequence[int], peaks: Sequence[float]) -> tuple[float, int]:
    """MiB a token of the whole sequence, and the tokens that fit MEMORY_MIB, by the line through the two measured peaks."""
    per_token = (peaks[-1] - peaks[0]) / (lengths[-1] - lengths[0])
    return per_token, int(lengths[-1] + (MEMORY_MIB - peaks[-1]) / per_token)


def write(output: Path, times: Sequence[Time], memories: Sequence[Memory]) -> list[Path]:
    """Write CSV files and the picture into the folder `output`, made if need be; returns their paths."""
    output.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, rows in (("time", times), ("memory", memories)):
        paths.append(output / f"parallel-{name}.csv")
        with paths[-1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    paths.append(output / "parallel.png")
    picture(times, memories).savefig(paths[-1])
    return paths


def picture(times: Sequence[Time], memories: Sequence[Memory]) -> Figure:
    """Time of a step in bars, and peak memory over the workers."""
    drawing = new_figure(10.0, max(3.8, 0.4 * len(times)))
    left, right = drawing.subplots(1, 2)
    for at, time in enumerate(times):
        left.barh(-at, time.seconds, color=_COLORS[time.exchange])
        said = f" {_meaning(time, times[0].length)}" if time.workers > 1 else ""
        left.text(time.seconds, -at, said, va="center", fontsize=8)
    left.set_yticks(
        [-at for at in range(len(times))],
        [f"width {t.width}: {t.workers} x {t.exchange}, {t.length:,} tokens" for t in times],
        fontsize=8,
    )
    left.set_xlim(0, 2.3 * max(time.seconds for time in times))
    left.set_xlabel("seconds a step, one thread a worker")
    length = max(memory.length for memory in memories)
    alone = next(memory for memory in memories if memory.workers == 1 and memory.length == length)
    for exchange in dict.fromkeys(memory.exchange for memory in memories if memory.workers > 1):
        points = [alone, *(memory for memory in memories if (memory.exchange, memory.length) == (exchange, length))]
        right.plot(
            [p.workers for p in points], [p.peak_mib for p in points], "o-", color=_COLORS[exchange], label=exchange
        )
    workers = sorted({memory.workers for memory in memories})
    right.plot(workers, [alone.peak_mib / count for count in workers], ":", color=GREY, label="1 / workers")
    right.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    right.set_xticks(workers, [str(count) for count in workers])
    peaks = sorted({round(memory.peak_mib) for memory in memories if memory.length == length})
    right.set_yticks(peaks, [f"{peak:,}" for peak in peaks])
    right.set_xlabel("workers")
    right.set_ylabel(f"peak MiB of a worker, {length:,} tokens")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        tidy(axes)
    return drawing


def _meaning(time: Time, length: int) -> str:
    return (
        f"{time.ratio:.2f} x as fast" if time.length == length else f"{time.ratio:.2f} x its time for twice the tokens"
    )


def _by_case(memories: Sequence[Memory]) -> dict[tuple[str, int], list[float]]:
    """Peaks of each (exchange, workers) by ascending length."""
    cases: dict[tuple[str, int], list[float]] = {}
    for memory in sorted(memories, key=lambda memory: memory.length):
        cases.setdefault((memory.exchange, memory.workers), []).append(memory.peak_mib)
    return dict(sorted(cases.items(), key=lambda case: (case[0][1], case[0][0] != "heads")))
