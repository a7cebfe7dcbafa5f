"""JSON Schemas of what gradscope writes as JSON, made from its records."""

from __future__ import annotations

import math
from typing import Any, Literal

from gradscope.records import SCHEMA_VERSION, Report
from gradscope.reports.comparing.side_by_side import COMPARISON_SCHEMA_VERSION, SideBySide
from gradscope.reports.json import NONFINITE, PlanFile

__all__ = ["Kind", "schema"]

Kind = Literal["report", "plan", "comparison"]
"""What is written as JSON."""


_RECORDS: dict[Kind, tuple[Any, int]] = {
    "report": (Report, SCHEMA_VERSION),
    "plan": (PlanFile, SCHEMA_VERSION),
    "comparison": (SideBySide, COMPARISON_SCHEMA_VERSION),
}


def schema(kind: Kind = "report") -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every file of this kind and version validates against.

    Files of older versions, which can be read too, may lack what is new.
    """
    from pydantic import TypeAdapter
    from pydantic.json_schema import GenerateJsonSchema
    from pydantic_core import core_schema

    class Strict(GenerateJsonSchema):
        """Floats may be one of three strings, defaults too; objects have no keys but their own."""

        def float_schema(self, schema: core_schema.FloatSchema) -> dict[str, Any]:
            return {"anyOf": [super().float_schema(schema), {"enum": list(NONFINITE)}]}

        def encode_default(self, dft: Any) -> Any:
            if isinstance(dft, float) and not math.isfinite(dft):
                return "NaN" if math.isnan(dft) else "Infinity" if dft > 0 else "-Infinity"
            return super().encode_default(dft)

        def dataclass_schema(self, schema: core_schema.DataclassSchema) -> dict[str, Any]:
            described = super().dataclass_schema(schema)
            described["additionalProperties"] = False
            return described

    record, version = _RECORDS[kind]
    described = TypeAdapter(record).json_schema(schema_generator=Strict)
    described["properties"]["schema_version"] = {"const": version}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **described,
        "title": f"gradscope {kind}",
    }
