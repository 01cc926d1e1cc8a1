import jsonschema
import pytest

from t2l_router.engines.echo_schema import smallest

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 18},
        "sex": {"enum": ["f", "m"]},
        "kind": {"const": "person"},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/pet"}, "minItems": 1},
        "nick": {"anyOf": [{"type": "null"}, {"type": "string"}]},
    },
    "required": ["name", "age", "sex", "kind", "pets", "nick"],
    "additionalProperties": False,
    "$defs": {"pet": {"type": "object", "properties": {"legs": {"type": "number"}}}},
}


@pytest.mark.parametrize(
    "schema",
    [PERSON, {}, {"type": "array"}, {"type": ["boolean", "null"]}, {"type": "null"}, {"enum": [3]}],
)
def test_value_fits(schema):
    """The value fits its schema."""
    jsonschema.validate(smallest(schema), schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://example.org/x"},
        {"$ref": "#/a", "a": {"$ref": "#/a"}},
        {"type": "array", "items": 3, "minItems": 10**9},
        {"anyOf": [[]]},
        {"type": []},
        None,
    ],
)
def test_odd_schemas(schema):
    """Whatever the schema is, it ends and doesn't break."""
    smallest(schema)
