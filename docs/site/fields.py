"""Makes lists of what docstrings say of arguments and fields, for the API pages.

Docstrings of this project name them in running text: "batch_size: images of a step. mesh: devices".
"""

import re

import griffe


class FieldsAsList(griffe.Extension):
    """Puts each argument or field into a list item of its own."""

    def on_class(self, *, cls, loader, **kwargs):
        made = cls.members.get("__init__")
        names = [*cls.members, *(p.name for p in made.parameters)] if made else [*cls.members]
        self._rewrite(cls, [*names, *(p.name for p in cls.parameters)])

    def on_function(self, *, func, loader, **kwargs):
        self._rewrite(func, [p.name.lstrip("*") for p in func.parameters])

    def _rewrite(self, documented, names):
        if documented.docstring is not None and names:
            documented.docstring.value = as_list(documented.docstring.value, names)


def as_list(text: str, names: list[str]) -> str:
    """Returns a docstring whose paragraphs "name: text. name: text" are lists."""
    one = "|".join(map(re.escape, sorted(set(names), key=len, reverse=True)))
    start = rf"(?:{one})(?:(?:,| and) (?:{one}))*:(?= )"

    def listed(paragraph: str) -> str:
        if not re.match(start, paragraph):
            return paragraph
        flat = " ".join(paragraph.split())
        items = re.split(rf"(?:^|(?<=[.;)\]] ))({start})", flat)[1:]
        lines = [f"- `{n[:-1]}`:{t}".rstrip() for n, t in zip(items[::2], items[1::2], strict=True)]
        head, raises, tail = lines[-1].partition(" Raises ")
        return "\n".join([*lines[:-1], head]) + (f"\n\nRaises {tail}" if raises else "")

    return "\n\n".join(listed(paragraph) for paragraph in re.split(r"\n\s*\n", text))
