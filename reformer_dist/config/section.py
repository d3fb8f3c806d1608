"""What every section of the configuration is: a frozen, typed group of fields."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class ConfigError(ValueError):
    """A mistake in the configuration; its text is one line that names the field, its value and a value that works."""


class Section(BaseModel):
    """A frozen group of fields; unknown keys are an error, and the text below a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _split_commas(cls, value: Any, info: ValidationInfo) -> Any:
        """Let a string stand for several values, as on the command line: "local,lsh"."""
        takes_tuple = "tuple" in repr(cls.model_fields[info.field_name or ""].annotation)
        return value.split(",") if isinstance(value, str) and takes_tuple else value
