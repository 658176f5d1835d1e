"""Read recipes of every kind: YAML files that build on each other.

The dialect is the core schema of YAML 1.2: `1e-4` and `2e-1` are numbers, `no` and `on` are strings. Duplicate keys in
a mapping are refused. Under `inherits`, a recipe lists the recipes it builds on, by path relative to its own folder or
by the name of a packaged recipe; later ones override earlier ones, and the recipe itself overrides them all. Mappings
with string keys are merged key by key; any other value (a number, a list, a mapping with numeric keys) replaces the
inherited one.

A schema gives the allowed keys and their types: a nested dict whose leaves are type hints.
"""

import math
import os
import re
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from huggingface_hub.dataclasses import type_validator
from huggingface_hub.errors import StrictDataclassError

from modeling_pseldnet.keywords import in_one_line


# Recipes in this folder only serve as parents of others.
BASE_FOLDER = "base"

_TAG = "tag:yaml.org,2002:"
# For each tag, the pattern of its plain scalars, and the characters they can begin with.
_CORE_SCHEMA = {
    "null": (r"(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"(true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    "float": (
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
    "merge": (r"<<$", ["<"]),
}
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 120


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}
    yaml_constructors = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "float", "str", "seq", "map")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict = {}


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


_Loader.add_constructor(f"{_TAG}int", _construct_int)
_Dumper.add_representer(tuple, lambda dumper, value: dumper.represent_list(value))
for _name, (_pattern, _first) in _CORE_SCHEMA.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


def packaged_recipes(packaged: Path) -> list[str]:
    """List the names of the recipes in a folder of packaged ones, without those that only serve as parents."""
    names = (_packaged_name(path, packaged) for path in packaged.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(f"{BASE_FOLDER}/"))


def _packaged_name(path: Path, packaged: Path) -> str:
    return path.relative_to(packaged).with_suffix("").as_posix()


def read_values(
    source: str | os.PathLike, packaged: Path, schema: dict[str, Any], overrides: Sequence[str] = ()
) -> tuple[str, dict[str, Any]]:
    """Read a recipe; return its label for messages, and its values together with those it inherits.

    Args:
        source: a YAML file, or the name of a packaged recipe.
        packaged: the folder of packaged recipes.
        schema: the allowed keys and their types.
        overrides: `key.key=value`. The value is YAML, except that text is taken literally. An empty value (`key=`)
            means null, and so does `null`, except that it names a folder where the key ends in `_dir`.

    Raises:
        FileNotFoundError: neither a file nor a known name.
        ValueError: a recipe or an override is invalid; the one-line message names it and the key.
    """
    path = _find(source, Path(), packaged)
    values = _read(path, packaged, schema, ())
    label = _label(path, packaged)
    for override in overrides:
        with naming(label):
            values = _merge(values, fit(_parse_override(override, schema), schema))
    return label, values


@contextmanager
def naming(label: str) -> Iterator[None]:
    """Re-raise errors in a recipe as a one-line `ValueError` that begins with its label."""
    try:
        yield
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"{label}: {in_one_line(error)}") from None
    except RecursionError:
        raise ValueError(f"{label}: nested too deeply") from None


def schema_of(kind: type) -> dict[str, Any]:
    """Return the schema of a dataclass, whose fields may be dataclasses themselves."""
    return {entry.name: schema_of(entry.type) if is_dataclass(entry.type) else entry.type for entry in fields(kind)}


def build(kind: type, values: dict[str, Any]) -> Any:
    """Build a dataclass from values that fit its schema; missing values keep their defaults."""
    hints = {entry.name: entry.type for entry in fields(kind)}
    return kind(**{key: build(hints[key], v) if is_dataclass(hints[key]) else v for key, v in values.items()})


def recipe_text(values: dict[str, Any]) -> str:
    """Return values as YAML that [`read_values`] reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def fit(values: Any, schema: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Fit plain values to a schema, turning lists into tuples and string keys into integers where it asks for them.

    Args:
        where: the parent keys, each followed by a dot.

    Raises:
        ValueError: a key is unknown, or a value has the wrong type; the message names the key.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where.rstrip('.') or 'a recipe'} must be a mapping (key: value), not {_repr.repr(values)}")
    fitted = {}
    for key, value in values.items():
        if key not in schema:
            raise ValueError(unknown_key(str(key), list(schema), where))
        hint = schema[key]
        nested = isinstance(hint, dict)
        fitted[key] = fit(value, hint, f"{where}{key}.") if nested else _fit_value(f"{where}{key}", value, hint)
    return fitted


def unknown_key(key: str, known: Sequence[str], where: str = "") -> str:
    """Return the message about an unknown key, with the one that was probably meant."""
    similar = get_close_matches(key, known, n=1)
    hint = f": did you mean {where}{similar[0]}?" if similar else f"; known keys: {', '.join(known)}"
    return f"unknown key {where}{_repr.repr(key)[1:-1]}{hint}"


def _fit_value(name: str, value: Any, hint: Any) -> Any:
    hint = _widened(hint)
    value = _converted(value, hint)
    try:
        type_validator(name, value, hint)
    except TypeError:
        raise ValueError(f"{name} must be {_words(hint)}, not {_repr.repr(value)}") from None
    if not all(map(math.isfinite, _floats(value))):
        raise ValueError(f"{name} must be finite, not {_repr.repr(value)}")
    return value


def _widened(hint: Any) -> Any:
    """Widen a type hint so that integers are allowed wherever floats are."""
    if hint is float:
        return float | int
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return reduce(or_, map(_widened, parts))
    if origin in (list, tuple, dict):
        return origin[tuple(map(_widened, parts))]
    return hint


def _converted(value: Any, hint: Any) -> Any:
    """Convert lists to tuples, and string keys (as in JSON) to integers, where the hint asks for them."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        tuples = [part for part in parts if get_origin(part) is tuple]
        return _converted(value, tuples[0]) if tuples else value
    if origin is tuple and isinstance(value, list | tuple) and len(value) == len(parts):
        return tuple(map(_converted, value, parts))
    if origin is dict and parts[0] is int and isinstance(value, dict):
        return {int(key) if isinstance(key, str) and key.isdecimal() else key: entry for key, entry in value.items()}
    return value


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _floats(entry)


def _words(hint: Any) -> str:
    """Describe a type in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        words = dict.fromkeys(map(_words, parts))
        if "a number" in words:
            words.pop("a whole number", None)
        return " or ".join(words)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        numbers = all(_words(part) == "a number" for part in parts)
        return (
            "a range [low, high]"
            if numbers and len(parts) == 2
            else f"a list of {len(parts)}, each {_words(parts[0])}"
        )
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping (key: value)",
        NoneType: "null",
    }
    kind = origin or hint
    if kind in names:
        return names[kind]
    return "text" if isinstance(kind, type) and issubclass(kind, Enum) else str(getattr(kind, "__name__", kind))


def _is_text(hint: Any) -> bool:
    """Whether the hint allows only text, or only text and null."""
    if get_origin(hint) in (Union, UnionType):
        return all(part is NoneType or _is_text(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return all(isinstance(choice, str) for choice in get_args(hint))
    return hint is str or (isinstance(hint, type) and issubclass(hint, Enum))


def _find(source: Any, folder: Path, packaged: Path) -> Path:
    path = Path(source).expanduser()
    for candidate in (folder / path, packaged / f"{source}.yaml"):
        if candidate.is_file():
            return candidate
    known = packaged_recipes(packaged)
    similar = get_close_matches(str(source), known, n=3, cutoff=0.5)
    hint = f"such as {' or '.join(similar)}" if similar else f"one of {', '.join(known)}"
    raise FileNotFoundError(f"no recipe {str(source)!r}: give a YAML file, or the name of a packaged recipe, {hint}")


def _label(path: Path, packaged: Path) -> str:
    return f"recipe {_packaged_name(path, packaged)}" if path.is_relative_to(packaged) else str(path)


def _read(path: Path, packaged: Path, schema: dict[str, Any], above: tuple[Path, ...]) -> dict[str, Any]:
    """Read the values of a recipe, merged over those it inherits."""
    resolved = path.resolve()
    if resolved in above:
        raise ValueError(f"{path} inherits from itself")
    with naming(_label(path, packaged)):
        try:
            own = _parse(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"not valid YAML: {error}") from None
        own = {} if own is None else own
        parents = own.pop("inherits", []) if isinstance(own, dict) else []
        parents = [parents] if isinstance(parents, str) else parents
        if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
            raise ValueError(f"inherits must be the name of a recipe or a list of names, not {_repr.repr(parents)}")
        own = fit(own, schema)
    values: dict[str, Any] = {}
    for parent in parents:
        found = _find(parent, path.parent, packaged)
        values = _merge(values, _read(found, packaged, schema, (*above, resolved)))
    return _merge(values, own)


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, LookupError) as error:
        raise ValueError(in_one_line(error)) from None


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        known = merged.get(key)
        both = isinstance(known, dict) and isinstance(change, dict)
        words = both and all(isinstance(name, str) for name in (*known, *change))
        merged[key] = _merge(known, change) if words else change
    return merged


def _parse_override(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    keys, equals, value = text.partition("=")
    names = keys.split(".")
    if not equals or not all(names):
        raise ValueError(f"override {text!r}: expected section.key=value, such as training.learning_rate=3e-4")
    hint: Any = schema
    for name in names:
        hint = hint.get(name, Any) if isinstance(hint, dict) else Any
    try:
        # A folder may well be called "null".
        texts = {"": None} if names[-1].endswith("_dir") else {"": None, "null": None}
        nested = texts.get(value, value) if _is_text(hint) else _parse(value)
    except ValueError:
        raise ValueError(f"override {text!r}: the value is not valid YAML") from None
    for name in reversed(names):
        nested = {name: nested}
    return nested
