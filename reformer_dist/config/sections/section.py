"""What every section of the configuration is: a frozen, typed group of fields."""

import re
from collections.abc import Hashable, Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from reformer_dist.errors import ConfigError

_WHOLE = re.compile(r"[-+]?\d+(\.\d*)?[eE]\+?\d{1,2}")


class Section(BaseModel):
    """A frozen group of fields; unknown keys are an error, and the text below a field is its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, coerce_numbers_to_str=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _take_text(cls, value: Any, info: ValidationInfo) -> Any:
        """Let text stand for several values, as on the command line: "local,lsh"; for one where it may; for a whole number."""
        annotation: Any = cls.model_fields[info.field_name or ""].annotation
        kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        is_whole = int in _leaves(annotation) and str not in _leaves(annotation)
        several = [get_origin(kind) is tuple for kind in kinds if kind is not NoneType]
        if any(several) and isinstance(value, str | int | float | list) and not isinstance(value, bool):
            values = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
            if is_whole:
                values = [_whole(each) for each in values]
            return values if all(several) or len(values) != 1 else values[0]
        return _whole(value) if is_whole else value

    def problems(self) -> Iterator[str]:
        """What does not fit together among fields that are each right, a line for each mistake."""
        yield from ()

    @model_validator(mode="after")
    def _tell_problems(self) -> Self:
        if problems := tuple(self.problems()):
            raise ConfigError(*problems)
        return self


@cache
def _leaves(annotation: Hashable) -> frozenset[Any]:
    """The types that a type is made of."""
    inner = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return frozenset().union(*map(_leaves, inner)) if inner else frozenset([annotation])


def _whole(value: Any) -> Any:
    """The number that a text such as 1e4 means, if it is whole; else the value as it is."""
    if isinstance(value, str) and _WHOLE.fullmatch(value) and float(value).is_integer():
        return int(float(value))
    return value
