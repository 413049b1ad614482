"""What the bodies of all requests have in common."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fourfold.assistant.unicode import well_formed

Text = Annotated[str, AfterValidator(well_formed)]
OneComplaint = Field(fail_fast=True)
"""Of a list: what is wrong with its first bad entry is enough, and a million of them would be a million errors."""


class Body(BaseModel):
    # Unknown fields are ignored: clients add new ones all the time. Strict, so that "1" is not taken for 1.
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, fields: Any) -> Any:
        return {name: _as_whole(value) for name, value in fields.items()} if isinstance(fields, dict) else fields


def _as_whole(value: Any) -> Any:
    """10.0 is a whole number, as in JSON Schema: JavaScript and pandas write it so."""
    if isinstance(value, list) and any(isinstance(item, float) for item in value):
        return [_as_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
