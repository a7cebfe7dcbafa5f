"""Reports, plans and comparisons as JSON: writing them, and reading the first two back.

The records themselves are the format: keys are the fields' names in their order. JSON has no
word for NaN or infinity, and a diagnosis of broken training needs them, so a float that is not
finite is written as the string ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``. Reading is strict:
an unknown key, a missing one or a number in quotes is an error, never a guess. Files of older
schema versions are read as if they were of this one; see ``SCHEMA_VERSION``.

When it is wrong: a prescription's parameter that is a non-finite float comes back as a string,
because a parameter may also be a string and the two cannot be told apart.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gradscope.errors import GradscopeError, PlanError, ReportError
from gradscope.records import SCHEMA_VERSION, Origin, Plan, Report
from gradscope.reports.wording import each_string, visible

if TYPE_CHECKING:
    from pydantic_core import CoreSchema, SchemaValidator

    from gradscope.reports.comparing.side_by_side import SideBySide

__all__ = [
    "NONFINITE",
    "PlanFile",
    "load_plan",
    "load_report",
    "read_json",
    "read_plan",
    "render_comparison",
    "render_json",
    "render_plan",
]

NONFINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_DECODER = json.JSONDecoder(parse_int=float)
_FAULTS_NAMED = 3
"""How many faults of a file an error message names; a wrong file can have thousands."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A saved plan: ``plan.json``."""

    schema_version: int
    plan: Plan


def render_json(report: Report) -> str:
    """The report as indented JSON that follows its schema, with a final newline."""
    return _written(report)


def render_plan(plan: Plan) -> str:
    """The plan as indented JSON: ``{"schema_version": N, "plan": {...}}``."""
    return _written(PlanFile(SCHEMA_VERSION, plan))


def render_comparison(comparison: SideBySide) -> str:
    """The comparison as indented JSON; its keys are those of :class:`SideBySide`."""
    return _written(comparison)


def load_report(path: str | Path) -> Report:
    """The report saved in a file.

    Raises:
        ReportError: it cannot be read, or is no report of this version or one before.
    """
    return read_json(_content(path, ReportError), str(path))


def load_plan(path: str | Path) -> Plan:
    """The plan saved in a file, to be passed to ``gradscope.apply``.

    Raises:
        PlanError: it cannot be read, or is no plan of this version or one before.
    """
    return read_plan(_content(path, PlanError), str(path))


def _content(path: str | Path, error: type[GradscopeError]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}.") from reason
    except UnicodeDecodeError as reason:
        raise error(f"{path} is not a text file; give the JSON that gradscope wrote.") from reason


def read_json(text: str, name: str) -> Report:
    """The report that ``text`` holds.

    Args:
        text: what the file holds.
        name: the file's name, for messages.

    Raises:
        ReportError: it is no JSON, no report, or a report of a newer schema version.
    """
    raw = _parsed(text, name, "report", ReportError)
    if "plan" in raw and "findings" not in raw:
        raise ReportError(
            f"{name} is a plan, not a report: give the report.json that was written beside it."
        )
    _check_version(raw, name, "report", ReportError)
    report = cast("Report", _validated(Report, text, name, "report", ReportError))
    # What is written again has all keys of this version.
    return replace(report, schema_version=SCHEMA_VERSION)


def read_plan(text: str, name: str) -> Plan:
    """The plan that ``text`` holds.

    Args:
        text: what the file holds.
        name: the file's name, for messages.

    Raises:
        PlanError: it is no JSON, no plan, or a plan of a newer schema version.
    """
    raw = _parsed(text, name, "plan", PlanError)
    if "findings" in raw:
        raise PlanError(
            f"{name} is a report, not a plan: give the plan.json that was written beside it."
        )
    _check_version(raw, name, "plan", PlanError)
    if repeated := _repeated(text):
        raise PlanError(f"{name} has {repeated[0]!r} twice in one object: take one of them out.")
    plan = cast("PlanFile", _validated(PlanFile, text, name, "plan", PlanError)).plan
    object.__setattr__(plan, "origin", Origin(name, partial(_line, text)))
    return plan


def _written(record: object) -> str:
    from pydantic_core import PydanticSerializationError, to_json

    try:
        written = to_json(record, indent=2, inf_nan_mode="strings")
    except PydanticSerializationError:
        # A file name that is not UTF-8 reaches Python as lone surrogates, which JSON cannot hold.
        written = to_json(each_string(record, _encodable), indent=2, inf_nan_mode="strings")
    # What could steer a terminal that shows it is spelled out, beyond what JSON itself asks for.
    return _BEYOND.sub(lambda found: _escaped(found[0]), written.decode()) + "\n"


_BEYOND = re.compile(r"[^\n -~]")


def _escaped(character: str) -> str:
    if visible(character) == character:
        return character
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _parsed(text: str, name: str, noun: str, error: type[GradscopeError]) -> dict[str, Any]:
    """The JSON object in ``text``, not yet checked further than that."""
    from pydantic_core import from_json

    if not text.strip():
        raise error(f"{name} is empty: save the {noun} again.")
    try:
        raw = from_json(text.encode("utf-8", "surrogatepass"), allow_inf_nan=False)
    except ValueError as fault:
        raise error(f"{name} is not JSON ({fault}): save the {noun} again.") from None
    if not isinstance(raw, dict):
        raise error(
            f"{name} holds a JSON {_kind(raw)} where a {noun} is an object: "
            f"give a {noun}.json that gradscope wrote."
        )
    return raw


def _check_version(raw: dict[str, Any], name: str, noun: str, error: type[GradscopeError]) -> None:
    version = raw.get("schema_version")
    if version is None:
        raise error(
            f"{name} has no schema_version, so it is no gradscope {noun}: "
            f"give a {noun}.json that gradscope wrote."
        )
    if isinstance(version, int) and not isinstance(version, bool):
        if version > SCHEMA_VERSION:
            raise error(
                f"{name} has schema_version {version} and this gradscope reads versions up to "
                f"{SCHEMA_VERSION}: upgrade with pip install --upgrade torch-gradscope."
            )
        if version >= 1:
            return
    raise error(
        f"{name}: schema_version is {version!r} where a whole number from 1 to {SCHEMA_VERSION} "
        f"is expected: save the {noun} again."
    )


def _validated(record: Any, text: str, name: str, noun: str, error: type[GradscopeError]) -> object:
    from pydantic_core import ValidationError

    try:
        return _validator(record).validate_json(text, strict=True, extra="forbid")
    except ValidationError as fault:
        faults = fault.errors(include_url=False, include_context=False)
    said: dict[tuple[int | str, ...], str] = {}
    for one in faults:
        place, what = one["loc"], _said(one["type"], one["msg"])
        if place[-3:-2] == ("parameters",) and isinstance(place[-2], str):
            # A Value is one of four types, and each of them has complained.
            place, what = place[:-1], "should be a string, a number, true or false"
        said.setdefault(place, what)
    named = "; ".join(
        f"line {_line(text, place)}, {_place(place)}: {what}"
        for place, what in list(said.items())[:_FAULTS_NAMED]
    )
    more = len(said) - _FAULTS_NAMED
    raise error(
        f"{name} is not a {noun} as gradscope writes it: {named}"
        f"{f'; and {more} more' if more > 0 else ''}. "
        f"Correct it, or save the {noun} again."
    )


@cache
def _validator(record: Any) -> SchemaValidator:
    from pydantic import TypeAdapter
    from pydantic_core import SchemaValidator, core_schema

    def decoded(value: object) -> object:
        return NONFINITE.get(value, value) if isinstance(value, str) else value

    def walked(node: Any) -> Any:
        # A Value (str | int | float | bool) keeps its plain floats: there the string is a string.
        if isinstance(node, dict):
            if node.get("type") == "float":
                return core_schema.no_info_before_validator_function(decoded, node)
            if node.get("type") == "union":
                return node
            return {key: walked(value) for key, value in node.items()}
        return [walked(each) for each in node] if isinstance(node, list) else node

    built: CoreSchema = walked(TypeAdapter(record).core_schema)
    return SchemaValidator(built)


def _line(text: str, location: tuple[int | str, ...]) -> int:
    """The line of a place in JSON; of what is missing, the line on which what lacks it begins."""
    at = _beginning(text, 0)
    for part in location:
        inner = next((start for key, start in _entries(text, at) if key == part), None)
        if inner is None:
            break
        at = inner
    return text.count("\n", 0, at) + 1


def _entries(text: str, at: int) -> Iterator[tuple[int | str, int]]:
    """Of the object or array that begins there, each key or index, and where its value begins."""
    closing = {"{": "}", "[": "]"}.get(text[at])
    if closing is None:
        return
    for index in count():
        at = _beginning(text, at + 1)
        if text[at] == closing:
            return
        key: int | str = index
        if closing == "}":
            key, at = _DECODER.raw_decode(text, at)
            at = _beginning(text, _beginning(text, at) + 1)
        yield key, at
        at = _beginning(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == closing:
            return


def _beginning(text: str, at: int) -> int:
    while text[at].isspace():
        at += 1
    return at


def _repeated(text: str) -> list[str]:
    """Keys that stand twice in one object, of which the last would be taken without a word."""
    found: list[str] = []

    def look(pairs: list[tuple[str, object]]) -> None:
        found.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)

    json.loads(text, object_pairs_hook=look, parse_int=float)
    return found


def _place(location: tuple[int | str, ...]) -> str:
    """``findings[0].severity``: where in the file, as a person would write it."""
    place = ""
    for part in location:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    return place or "the file"


def _said(kind: str, message: str) -> str:
    """The fault in words about JSON, not about Python's dataclasses."""
    return {
        "missing": "is missing",
        "unexpected_keyword_argument": "is not a key that gradscope knows",
        "dataclass_type": "should be an object",
        "dataclass_exact_type": "should be an object",
    }.get(kind, message[:1].lower() + message[1:])


def _kind(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
