"""Questions to JSON columns, asked inside a statement."""

from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class has_value(FunctionElement[bool]):
    """has_value(document, text): the list or object holds this text as a value. False of NULL."""

    type = Boolean()
    inherit_cache = True


class all_in(FunctionElement[bool]):
    """all_in(list, other list): nothing is in the first that is not in the other. NULL is an empty list."""

    type = Boolean()
    inherit_cache = True


class has_pair(FunctionElement[bool]):
    """has_pair(document, key, text): the object holds this text under this key."""

    type = Boolean()
    inherit_cache = True


@compiles(has_pair, "sqlite")
def _has_pair_sqlite(element: has_pair, compiler: Any, **kw: Any) -> str:
    document, key, text = _arguments(element, compiler, kw)
    pairs = f"json_each({document}) AS pair"
    return f"EXISTS (SELECT 1 FROM {pairs} WHERE pair.key = {key} AND pair.value = {text})"


@compiles(has_pair, "postgresql")
def _has_pair_postgres(element: has_pair, compiler: Any, **kw: Any) -> str:
    document, key, text = _arguments(element, compiler, kw)
    return f"coalesce(CAST({document} AS jsonb) ->> CAST({key} AS text) = CAST({text} AS text), false)"


@compiles(has_value, "sqlite")
def _has_value_sqlite(element: has_value, compiler: Any, **kw: Any) -> str:
    document, text = _arguments(element, compiler, kw)
    return f"EXISTS (SELECT 1 FROM json_each({document}) AS each_one WHERE each_one.value = {text})"


@compiles(has_value, "postgresql")
def _has_value_postgres(element: has_value, compiler: Any, **kw: Any) -> str:
    document, text = _arguments(element, compiler, kw)
    asked = f"jsonb_build_object('v', CAST({text} AS text))"
    return f"coalesce(jsonb_path_exists(CAST({document} AS jsonb), '$.** ? (@ == $v)', {asked}), false)"


@compiles(all_in, "sqlite")
def _all_in_sqlite(element: all_in, compiler: Any, **kw: Any) -> str:
    inner, outer = _arguments(element, compiler, kw)
    found = f"SELECT there.value FROM json_each({outer}) AS there"
    return f"NOT EXISTS (SELECT 1 FROM json_each({inner}) AS one WHERE one.value NOT IN ({found}))"


@compiles(all_in, "postgresql")
def _all_in_postgres(element: all_in, compiler: Any, **kw: Any) -> str:
    inner, outer = (f"coalesce(CAST({part} AS jsonb), '[]'::jsonb)" for part in _arguments(element, compiler, kw))
    return f"({inner} <@ {outer})"


def _arguments(element: FunctionElement[bool], compiler: Any, kw: dict[str, Any]) -> list[str]:
    return [compiler.process(part, **kw) for part in element.clauses]
