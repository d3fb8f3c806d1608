"""Reading a run's hash health: which change of rounds, buckets or window is worth its price.

In: a run as MLflow has it. Out: a table of what was measured and one proposal as command-line options.

The price of a setting is what LSH attention computes for a token, in products of two vectors of a head's width: in each
round the projections of the hash (half the sum of the bucket factors) and the keys that are scored (at most the window). The
gain is attention mass. More mass is no promise of a lower loss; a short sweep around the proposal tells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reformer_dist.config import ModelConfig
from reformer_dist.errors import ConfigError
from reformer_dist.tracking.records import RunRecord

GOOD = 0.9
"""Attention mass caught that is worth no further round."""
LITTLE = 0.02
"""Attention mass that may be given up for a lower price, and the least that is worth a higher one."""


@dataclass(frozen=True)
class Setting:
    """A setting of LSH attention, the mass it catches and its price."""

    name: str
    changes: Mapping[str, int | tuple[int, ...]]
    """Fields of the model section."""
    caught: float
    price: float

    @property
    def options(self) -> str:
        """The changes as command-line options."""
        values = {name: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in self.changes.items()}
        return " ".join(f"--model.{name} {value}" for name, value in values.items())


def suggest(run: RunRecord) -> str:
    """What a run's last hash health says, in lines for the terminal.

    Raises:
        ConfigError: the run has none.
    """
    own, *others = settings(run)
    lines = [f"run {run.name}: hash health after step {_step(run)}, means over LSH layers, heads and sampled queries"]
    lines += [f"  {name.replace('_', ' '):18} {_last(run, name):.3f}" for name in MEASURED if _has(run, name)]
    lines += ["", f"  {'setting':18} {'mass caught':>11} {'price':>7}"]
    lines += [f"  {s.name:18} {s.caught:11.3f} {s.price / own.price:6.2f}x  {s.options}" for s in (own, *others)]
    chosen, reason = choose(own, others)
    lines += ["", reason]
    if chosen is not None:
        lines += [f"to try: {chosen.options}"]
    return "\n".join(lines)


MEASURED = ("occupancy_entropy", "largest_bucket", "keys_seen", "met_again")


def settings(run: RunRecord) -> list[Setting]:
    """The run's own setting, then those that its hash health tells of.

    Raises:
        ConfigError: the run has no hash health.
    """
    if not _has(run, "caught"):
        raise ConfigError(
            f"run {run.name} has no hash health; a training with LSH layers in window mode logs it with every validation"
        )
    given = {name: _value(run.parameters[f"model.{name}"]) for name in FIELDS}
    model = ModelConfig.model_validate({name: value for name, value in given.items() if value is not None})
    *first, last = model.bucket_factors
    changes: dict[str, dict[str, int | tuple[int, ...]]] = {
        "caught": {},
        "caught_one_round_less": {"num_hashes": model.num_hashes - 1},
        "caught_one_round_more": {"num_hashes": model.num_hashes + 1},
        "caught_half_the_buckets": {"num_buckets": (*first, last // 2)},
        "caught_twice_the_buckets": {"num_buckets": (*first, 2 * last)},
        # Buckets that are not given follow the window; the mass was measured with those of now.
        "caught_half_the_window": {"lsh_window": model.lsh_window // 2, "num_buckets": model.bucket_factors},
        "caught_twice_the_window": {"lsh_window": 2 * model.lsh_window, "num_buckets": model.bucket_factors},
    }
    return [
        Setting(_name(name), change, _last(run, name), _price(model, change))
        for name, change in changes.items()
        if _has(run, name)
    ]


FIELDS = ("num_hashes", "num_buckets", "lsh_window", "max_length")


def choose(own: Setting, others: Sequence[Setting]) -> tuple[Setting | None, str]:
    """The change to try, None for none, and the reason in a line."""
    cheaper = [s for s in others if s.price < own.price and s.caught > own.caught - LITTLE]
    if cheaper:
        best = min(cheaper, key=lambda s: s.price)
        return best, f"{best.name} costs less and gives up {max(0.0, own.caught - best.caught):.3f} of the mass."
    if own.caught >= GOOD:
        return (
            None,
            f"{own.caught:.0%} of the mass is caught, and everything cheaper gives up more than {LITTLE}: keep it.",
        )
    gains = [s for s in others if s.caught > own.caught + LITTLE]
    if not gains:
        return None, "nothing measured catches noticeably more: more keys must be seen some other way."
    best = max(gains, key=lambda s: (s.caught - own.caught) / max(s.price - own.price, 1e-9))
    return best, f"{best.name} gains most for its price: {best.caught - own.caught:+.3f} of the mass."


def _price(model: ModelConfig, changes: Mapping[str, int | tuple[int, ...]]) -> float:
    """Products of vectors of a head's width for a token; windows are taken to be full, as where buckets are uneven."""
    changed = model.model_copy(update=dict(changes))
    return changed.num_hashes * (sum(factor // 2 for factor in changed.bucket_factors) + changed.lsh_window)


def _name(metric: str) -> str:
    return metric.removeprefix("caught_").replace("_", " ").replace("caught", "as it is")


def _value(text: str) -> str | None:
    return None if text == "None" else text.strip("()[] ").replace(" ", "")


def _has(run: RunRecord, name: str) -> bool:
    return bool(run.curves.get(f"hashing/{name}"))


def _last(run: RunRecord, name: str) -> float:
    return run.curves[f"hashing/{name}"][-1].value


def _step(run: RunRecord) -> int:
    return run.curves["hashing/caught"][-1].step
