"""What every section of the configuration is: a frozen, typed group of fields."""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from reformer_dist.errors import ConfigError


class Section(BaseModel):
    """A frozen group of fields; unknown keys are an error, and the text below a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _split_commas(cls, value: Any, info: ValidationInfo) -> Any:
        """Let a string stand for several values, as on the command line: "local,lsh"; and one value for itself where it may."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        several = [get_origin(kind) is tuple for kind in kinds if kind is not NoneType]
        if not isinstance(value, str | list) or not any(several):
            return value
        values = value.split(",") if isinstance(value, str) else value
        return values if all(several) or len(values) != 1 else values[0]

    def problems(self) -> Iterator[str]:
        """What does not fit together among fields that are each right, a line for each mistake."""
        yield from ()

    @model_validator(mode="after")
    def _tell_problems(self) -> Self:
        if problems := tuple(self.problems()):
            raise ConfigError(*problems)
        return self
