"""The smallest value that fits a JSON Schema, for an engine that has nothing to say."""

import re
from typing import Any

_DEEPEST = 32
_DEFAULTS: dict[str, Any] = {
    "string": "",
    "integer": 0,
    "number": 0,
    "boolean": False,
    "null": None,
    "array": [],
}


def smallest(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """
    A value for the schema, as far as types, constants, enumerations and bounds say.

    Args:
        schema: JSON Schema; what isn't understood is passed over.
        root: Where ``$ref`` looks; the schema itself.
        depth: How deep this is.
    """
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    found = _chosen(schema, root, depth)
    if found is not _OPEN:
        return found
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        properties = schema.get("properties")
        named = properties if isinstance(properties, dict) else {}
        return {name: smallest(value, root, depth + 1) for name, value in named.items()}
    if kind == "array" and schema.get("minItems"):
        n_items = min(int(schema["minItems"]), _DEEPEST)
        return [smallest(schema.get("items"), root, depth + 1) for _ in range(n_items)]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    return _DEFAULTS.get(str(kind))


_OPEN = object()


def _chosen(schema: dict[str, Any], root: Any, depth: int) -> Any:
    """The value where the schema leaves no choice, or points elsewhere."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if isinstance(name := schema.get("$ref"), str) and re.fullmatch(r"#(/[\w$-]+)+", name):
        target = root
        for step in name.split("/")[1:]:
            target = target.get(step) if isinstance(target, dict) else None
        return smallest(target, root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return smallest(schema[key][0], root, depth + 1)
    return _OPEN
