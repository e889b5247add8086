"""What a client says may be written, in the words of its protocol.

Rules
    OpenAI has ``response_format``, llama.cpp ``json_schema`` and ``grammar`` (GBNF), ollama ``format``, vLLM
    ``structured_outputs`` and before it ``guided_json``, ``guided_regex``, ``guided_choice`` and ``guided_grammar``.
    ``regex``, ``lark`` and ``choice`` are our own. Every path that writes takes all of them; a request has one.
    Making a constraint may take seconds, so a request does it in a thread of its own (exchange.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from bytelm import constraints
from bytelm.arguments import shown
from bytelm.constraints import Constraint
from bytelm.errors import InvalidArgumentError
from bytelm.inference.scheduler import blamed

_NEUTRAL: Final[tuple[Any, ...]] = (None, "", {}, [], {"type": "text"})


def constraint_asked(fields: Mapping[str, Any]) -> Constraint | None:
    """The constraint of a request, from its fields.

    Raises:
        InvalidArgumentError: It has two, or one that cannot be.
        MissingDependencyError: llguidance is not installed.

    >>> constraint_asked({"guided_choice": ["yes", "no"], "response_format": {"type": "text"}}).options
    (b'no', b'yes')
    """
    given = {name: value for name in MAKERS if (value := fields.get(name)) not in _NEUTRAL}
    if len(given) > 1:
        raise InvalidArgumentError(f"{' and '.join(given)} are each a constraint: give one of them")
    for name, value in given.items():
        with blamed(name):
            return MAKERS[name](value)
    return None


def _response_format(given: Any) -> Constraint | None:
    """As OpenAI has it; llama.cpp puts a schema beside ``json_object`` too."""
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "json_schema":
        told = given.get("json_schema")
        return constraints.json_schema(told.get("schema", {}) if isinstance(told, Mapping) else given.get("schema", {}))
    if kind == "json_object":
        schema = given.get("schema")
        return constraints.json_object() if schema is None else constraints.json_schema(schema)
    raise InvalidArgumentError(f"the type is text, json_object or json_schema; got {shown(given)}")


def _format(given: Any) -> Constraint:
    """As ollama has it."""
    return constraints.json_object() if given == "json" else constraints.json_schema(given)


def _structured_outputs(given: Any) -> Constraint | None:
    """As vLLM has it."""
    if not isinstance(given, Mapping):
        raise InvalidArgumentError(f"it is an object; got {shown(given)}")
    found = {name: value for name, value in given.items() if value is not None and value is not False}
    if len(found) != 1 or not found.keys() <= _STRUCTURED.keys():
        raise InvalidArgumentError(f"it has one of {', '.join(_STRUCTURED)}; got {shown(given)}")
    ((name, value),) = found.items()
    return _STRUCTURED[name](value)


_STRUCTURED: Final[Mapping[str, Callable[[Any], Constraint]]] = MappingProxyType(
    {
        "json": constraints.json_schema,
        "json_object": lambda _: constraints.json_object(),
        "regex": constraints.regex,
        "choice": constraints.choice,
        "grammar": constraints.gbnf,
    }
)
MAKERS: Final[Mapping[str, Callable[[Any], Constraint | None]]] = MappingProxyType(
    {
        "response_format": _response_format,
        "json_schema": constraints.json_schema,
        "grammar": constraints.gbnf,
        "format": _format,
        "structured_outputs": _structured_outputs,
        "guided_json": constraints.json_schema,
        "guided_regex": constraints.regex,
        "guided_choice": constraints.choice,
        "guided_grammar": constraints.gbnf,
        "regex": constraints.regex,
        "lark": constraints.lark,
        "choice": constraints.choice,
    }
)
