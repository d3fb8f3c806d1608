"""A sweep's space: what `tune.space` says of each field, read from YAML, checked, and turned into values."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reformer_dist.errors import ConfigError

Kind = Literal["choice", "uniform", "loguniform", "int"]
KINDS: tuple[Kind, ...] = ("choice", "uniform", "loguniform", "int")
EXAMPLE = '{"model.num_hashes": [1, 4], "optimizer.learning_rate": {"loguniform": [1e-4, 1e-2]}} works'


@dataclass(frozen=True)
class Dimension:
    """What one field may be.

    Attributes:
        kind: one of some values, or a number of an interval: evenly, evenly in its logarithm, or whole.
        values: the values, or the interval's two ends, which belong to it.
        points: values that a grid takes of an interval, its ends among them; None where it has no grid.
        when: other fields of the space and the values with which this one matters; otherwise it stays as it is.
    """

    kind: Kind
    values: tuple[Any, ...]
    points: int | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def matters(self, values: Mapping[str, Any]) -> bool:
        """Whether the field is chosen at all beside the values that are chosen already."""
        return all(name in values and values[name] in allowed for name, allowed in self.when.items())

    def grid(self) -> tuple[Any, ...] | None:
        """The values of a grid, None for an interval without `points`; all of a whole number's interval without them."""
        if self.kind == "choice":
            return self.values
        low, high = self.values
        if self.points is None:
            return tuple(range(low, high + 1)) if self.kind == "int" else None
        steps = [index / max(1, self.points - 1) for index in range(self.points)]
        if self.kind == "loguniform":
            return tuple(math.exp(math.log(low) + step * (math.log(high) - math.log(low))) for step in steps)
        numbers = [low + step * (high - low) for step in steps]
        return tuple(dict.fromkeys(map(round, numbers))) if self.kind == "int" else tuple(numbers)


def parse_space(space: Mapping[str, Any]) -> dict[str, Dimension]:
    """Read what YAML or the command line gives: a list of values, or a dictionary such as {loguniform: [1e-4, 1e-2]}.

    Raises:
        ConfigError: a line for each field that is wrong, with what works.
    """
    dimensions: dict[str, Dimension] = {}
    problems: list[str] = []
    before: set[str] = set()
    for name, given in space.items():
        try:
            dimensions[name] = _dimension(name, given)
        except ValueError as error:
            problems.append(str(error))
        else:
            problems += [
                f"tune.space.{name}: when names {other}, which must stand before it in the space"
                for other in dimensions[name].when
                if other not in before
            ]
        before.add(name)
    if problems:
        raise ConfigError(*problems)
    return dimensions


def combinations(dimensions: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Every combination of a grid, in order; a field that does not matter is left out, and no combination comes twice.

    Raises:
        ConfigError: a line for each interval that has no grid.
    """
    problems = [
        f"tune.space.{name}: tune.searcher = grid needs points of an interval; {{{dimension.kind}: [...], points: 3}}"
        " works, or tune.searcher random"
        for name, dimension in dimensions.items()
        if dimension.grid() is None
    ]
    if problems:
        raise ConfigError(*problems)
    yield from _continued({}, list(dimensions.items()))


def _continued(chosen: dict[str, Any], rest: list[tuple[str, Dimension]]) -> Iterator[dict[str, Any]]:
    if not rest:
        yield chosen
        return
    (name, dimension), *rest = rest
    if not dimension.matters(chosen):
        yield from _continued(chosen, rest)
        return
    for value in dimension.grid() or ():
        yield from _continued({**chosen, name: value}, rest)


def _dimension(name: str, given: Any) -> Dimension:
    if isinstance(given, list | tuple):
        given = {"choice": given}
    if not isinstance(given, Mapping):
        raise ValueError(f"tune.space.{name} = {given!r} must be a list of values or an interval; {EXAMPLE}")
    if unknown := set(given) - {*KINDS, "points", "when"}:
        raise ValueError(f"tune.space.{name} has {min(unknown)}, which is none of {', '.join(KINDS)}, points and when")
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        raise ValueError(f"tune.space.{name} must have one of {', '.join(KINDS)}; {EXAMPLE}")
    when = given.get("when", {})
    if not isinstance(when, Mapping):
        raise ValueError(f"tune.space.{name}: when = {when!r} must name fields; {{model.lsh_mode: window}} works")
    allowed = {other: tuple(v) if isinstance(v, list | tuple) else (v,) for other, v in when.items()}
    values = given[kinds[0]]
    if not isinstance(values, list | tuple):
        raise ValueError(f"tune.space.{name}: {kinds[0]} = {values!r} must be a list; {EXAMPLE}")
    dimension = Dimension(kinds[0], tuple(values), given.get("points"), allowed)
    _check(name, dimension)
    return dimension


def _check(name: str, dimension: Dimension) -> None:
    kind, values, points = dimension.kind, dimension.values, dimension.points
    if kind == "choice":
        if not values:
            raise ValueError(f"tune.space gives no values for {name}; {EXAMPLE}")
        if points is not None:
            raise ValueError(f"tune.space.{name}: points = {points} go with an interval, not with choice")
        return
    numbers = (int,) if kind == "int" else (int, float)
    if len(values) != 2 or not all(isinstance(v, numbers) and not isinstance(v, bool) for v in values):
        works = "[1, 8]" if kind == "int" else "[0.001, 0.1]"
        raise ValueError(f"tune.space.{name}: {kind} = {list(values)} must be two numbers; {works} works")
    low, high = values
    if low >= high or (kind == "loguniform" and low <= 0):
        order = "0 < smallest < largest" if kind == "loguniform" else "smallest < largest"
        raise ValueError(f"tune.space.{name}: {kind} = {list(values)} must be {order}")
    if points is not None and (not isinstance(points, int) or points < 2):
        raise ValueError(f"tune.space.{name}: points = {points} must be 2 or more")
