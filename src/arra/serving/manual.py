"""The page of the interface, made from its OpenAPI description: no script, no other host."""

from __future__ import annotations

from typing import Any


def manual_page(description: dict[str, Any]) -> str:
    """HTML of an OpenAPI description: operations, then the bodies they take and give."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("arra", "templates"),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    operations = _operations(description)
    first = [name for one in operations for name in one["takes"] + one["gives"]]
    return environment.get_template("api.html.j2").render(
        title=description["info"]["title"],
        version=description["info"]["version"],
        text=description["info"].get("description", ""),
        operations=operations,
        bodies=_bodies(description, first),
    )


def _operations(description: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            taken = operation.get("requestBody", {}).get("content", {})
            given = operation["responses"].get("200", {}).get("content", {})
            taken_names = [_name(content.get("schema", {})) for content in taken.values()]
            given_names = [
                _name(content.get("schema", {})) or kind for kind, content in given.items()
            ]
            found.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "text": operation.get("description", operation.get("summary", "")),
                    "takes": taken_names,
                    "gives": given_names,
                }
            )
    return found


def _bodies(description: dict[str, Any], first: list[str]) -> list[dict[str, Any]]:
    """All bodies, those that operations name first."""
    schemas = description.get("components", {}).get("schemas", {})
    place = {name: index for index, name in enumerate(dict.fromkeys(first))}
    found = []
    for name in sorted(schemas, key=lambda name: (place.get(name, len(place)), name)):
        schema = schemas[name]
        needed = schema.get("required", [])
        fields = [
            {
                "name": field,
                "needed": field in needed,
                "type": _type(values),
                "text": values.get("description", ""),
            }
            for field, values in schema.get("properties", {}).items()
        ]
        found.append({"name": name, "text": schema.get("description", ""), "fields": fields})
    return found


def _name(schema: dict[str, Any]) -> str:
    return schema.get("$ref", "").rpartition("/")[2]


def _type(schema: dict[str, Any]) -> str:
    """A schema in few words: its type, its values, its limits."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return _name(schema)
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return ", ".join(map(repr, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_number(schema[name])}" for name, sign in limits.items() if name in schema]
    if "maxLength" in schema:
        bounds.append(f"up to {schema['maxLength']} characters")
    kind = schema.get("type", "anything")
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else f"{value:g}"
