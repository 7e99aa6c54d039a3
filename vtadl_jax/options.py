"""Options as frozen dataclasses: their fields' roles, and reading, changing and describing them.

`config.py` holds the fields that all experiments share, each detector its own; both are declared
with `option`. Nothing here knows a particular field.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from vtadl_jax.errors import UserError

_KEY = "vtadl_jax"
LARGEST_SIZE = 65536  # of a network's layer, a neighbourhood, a list of Gaussians
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # of int32, as steps are, and of float32


@dataclasses.dataclass(frozen=True)
class Role:
    """Metadata of a field beside its type and default.

    at_least, above, at_most, below: its range; numbers are always finite. limit: a largest value
    that no experiment needs, told only to those who exceed it; by default that of int32 or float32.
    counts: the allowed numbers of values of a tuple, () for any; filled: whether it needs at least
    one. choices: the allowed values. resumable: whether a run may continue with another value.
    compiled: whether a train step depends on it.
    """

    help: str
    unit: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    limit: float | None = None
    counts: tuple[int, ...] = ()
    filled: bool = False
    choices: tuple[Any, ...] = ()
    resumable: bool = False
    compiled: bool = True

    @property
    def range(self) -> str:
        """Returns the range in words, as '1 or more' or "'full' or 'diag'"; '' without a range."""
        if self.choices:
            return " or ".join(repr(choice) for choice in self.choices)
        low, above, high, below = self.at_least, self.above, self.at_most, self.below
        if low is not None and high is None and below is None:
            return f"{low:g} or more"
        if low is not None and high is not None:
            return f"{low:g} to {high:g}" if high < LARGEST_INT else f"{low:g} to {high}"
        bounds = (("at least", low), ("more than", above), ("at most", high), ("less than", below))
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)

    def allows(self, value: Any) -> bool:
        """Returns whether a number is in the range, or a value is among the choices."""
        if self.choices:
            return value in self.choices
        if value is None or isinstance(value, str | bool):
            return True
        if isinstance(value, tuple):
            return self._allows_count(len(value)) and all(map(self.allows, value))
        return (
            -self._largest(value) <= value <= self._largest(value)  # False for NaN
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def remedy(self, value: Any) -> str:
        """Returns what to give in place of a value that is not allowed."""
        if isinstance(value, tuple):
            if not self._allows_count(len(value)):
                return f"give {' or '.join(map(str, self.counts)) or 'one or more'} values"
            value = next(item for item in value if not self.allows(item))
        ranged = self.choices or self.at_most is not None or self.below is not None
        if not ranged and self._largest(value) < value < math.inf:
            return f"use at most {self._largest(value)}"
        return f"use {self.range}" if self.range else "give a finite number"

    def _largest(self, value: float) -> float:
        if self.limit is None and self.at_most is None:
            return LARGEST_FLOAT if isinstance(value, float) else LARGEST_INT
        return self.limit if self.limit is not None else self.at_most or 0

    def _allows_count(self, count: int) -> bool:
        return (not self.counts or count in self.counts) and (count > 0 or not self.filled)


def option(default: Any, help: str, **role: Any) -> Any:
    """Declares a field of an options dataclass. role: the remaining fields of `Role`."""
    return dataclasses.field(default=default, metadata={_KEY: Role(help, **role)})


def role_of(field: dataclasses.Field) -> Role:
    """Returns the role that `option` stored in a field; an empty role for groups."""
    return field.metadata.get(_KEY, Role(""))


def fields_of(options: Any) -> Iterator[tuple[str, Any, Role]]:
    """Yields (dotted name, value, role) of every leaf of an options dataclass, in order."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            for name, leaf, role in fields_of(value):
                yield f"{field.name}.{name}", leaf, role
        else:
            yield field.name, value, role_of(field)


def flatten(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every leaf of a config or of nested mappings; lists become
    tuples."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    for key, value in values.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", tuple(value) if isinstance(value, list) else value


def replace(config: Any, fields: Mapping[str, Any], where: str = "") -> Any:
    """Returns the options with new values for some fields: dotted name → value.

    where: prefix of names in errors. Raises UserError for names and values that the schema does not
    allow.
    """
    for name, value in fields.items():
        head, _, rest = name.partition(".")
        if rest and head in {field.name for field in dataclasses.fields(config)}:
            value = replace(getattr(config, head), {rest: value}, f"{where}{head}.")
        config = dataclasses.replace(config, **_checked(config, head, value, where))
    return config


def _checked(config: Any, name: str, value: Any, where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(type(config))
    if name not in hints:
        raise UserError(f"unknown field {where}{name}{nearest(name, hints, where)}")
    if dataclasses.is_dataclass(value):
        return {name: value}
    field = next(f for f in dataclasses.fields(config) if f.name == name)
    return {name: read_value(f"{where}{name}", value, hints[name], role_of(field))}


def read(cls: type, values: Mapping[str, Any], where: str = "", **classes: type) -> Any:
    """Reads nested values into a dataclass of options; missing fields take their defaults.

    where: prefix of names in errors. classes: dataclasses of groups whose type `cls` does not name,
    as `model`. Raises UserError for an unknown field, with the nearest name, and for a value of the
    wrong type or outside the range.
    """
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    found = {}
    for name, value in values.items():
        if name not in known:
            everything = [n for n, _ in _leaves(cls)]
            raise UserError(f"unknown field {where}{name}{nearest(name, everything, where)}")
        kind = classes.get(name, hints[name])
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping | ConfigDict):
                raise UserError(f"{where}{name} {value!r}: is a group of fields")
            found[name] = read(typing.cast(type, kind), dict(value.items()), f"{where}{name}.")
        else:
            found[name] = read_value(f"{where}{name}", value, kind, role_of(known[name]))
    for name, kind in classes.items():
        found.setdefault(name, kind())
    return cls(**found)


def read_value(name: str, value: Any, kind: Any, role: Role) -> Any:
    """Returns `value` as `kind`. Raises UserError if it has another type or is out of range."""
    try:
        value = _convert(value, kind)
    except (TypeError, ValueError, OverflowError) as e:
        raise UserError(f"{name} {_shown(value)}: give {_kind_name(kind)}") from e
    if any(isinstance(text, str) and "\0" in text for text in (value, *_items(value))):
        raise UserError(f"{name} {_shown(value)}: give a text without zero bytes")
    if not role.allows(value):
        raise UserError(f"{name} {_shown(value)}: {role.remedy(value)}")
    return value


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def _shown(value: Any) -> str:
    """Returns a value for a line of text, cut if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; a nest of lists
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}…"


def _convert(value: Any, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(k for k in typing.get_args(kind) if k is not type(None)))
    if typing.get_origin(kind) is tuple:
        items = tuple(value) if isinstance(value, list | tuple) else (value,)
        kinds = typing.get_args(kind)
        if kinds[0] is str and len(items) == 1 and isinstance(items[0], str):
            items = tuple(text.strip() for text in items[0].split(","))  # as a flag gives them
        if kinds[-1] is not Ellipsis and len(kinds) != len(items):
            raise ValueError
        return tuple(_convert(item, kinds[0]) for item in items)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise TypeError
    return value


def _kind_name(kind: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "True or False", str: "a text"}
    if kind in names:
        return names[kind]
    if isinstance(kind, types.UnionType):
        return " or ".join(names.get(k, "None") for k in typing.get_args(kind))
    kinds = typing.get_args(kind)
    count = "several values" if kinds[-1] is Ellipsis else f"{len(kinds)} values"
    return f"{count}, each {names[kinds[0]]}"


def _leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _leaves(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def nearest(name: str, known: typing.Iterable[str], where: str = "") -> str:
    """Returns ': did you mean X?' for the nearest of the known names, '' if none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    if not near:  # the right leaf in another group
        near = [n for n in known if n.rpartition(".")[2] == name.rpartition(".")[2]][:1]
    return f": did you mean {where}{near[0]}?" if near else ""


def to_config_dict(options: Any) -> ConfigDict:
    """Returns an options dataclass as a ConfigDict, which config files and flags change."""
    found = ConfigDict()
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            value = to_config_dict(value)
        elif value is None and isinstance(hints[field.name], types.UnionType):
            value = placeholder(float)
        found[field.name] = value
    return found


def describe(config: Any, prefix: str = "") -> list[str]:
    """Returns one line per field: name, value, meaning, unit and range."""
    lines = []
    for name, value, role in fields_of(config):
        notes = "; ".join(note for note in (role.help, role.unit, role.range) if note)
        lines.append(f"  --{prefix}{name}={value!r}" + (f"  {notes}" if notes else ""))
    return lines
