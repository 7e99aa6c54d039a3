"""Writes readings, comparisons and sweeps as one HTML file that needs no network.

The style is that of a run's report; there is no script. `sections.py` provides the contents.
"""

import json
from collections.abc import Sequence
from html import escape
from importlib import resources

from vtadl_jax.compiling import figures as figures_lib
from vtadl_jax.compiling.reading import Reading
from vtadl_jax.compiling.sections import Section
from vtadl_jax.compiling.wording import duration, mib, percent, si
from vtadl_jax.report.charts import line_chart
from vtadl_jax.report.template import digest

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{csp}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
</header>
<main>
{body}
</main>
</body>
</html>
"""
MOST_BARS = 16

Figure = tuple[str, str, str]  # name, value, explanation


def page(
    title: str, subtitle: str, parts: Sequence[str], styles: Sequence[tuple[str, str]] = ()
) -> str:
    """Returns the whole file. parts: HTML from the functions below. styles: (package, file) of more
    styles."""
    css = _css(styles)
    # Style attributes set the width of bars; the policy lets no style load anything.
    csp = (
        f"default-src 'none'; img-src data:; style-src-elem '{digest(css)}'; "
        f"style-src-attr 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )
    return _TEMPLATE.format(
        csp=csp, css=css, title=escape(title), subtitle=escape(subtitle), body="\n".join(parts)
    )


def _css(more: Sequence[tuple[str, str]]) -> str:
    files = (("vtadl_jax.report", "page.css"), ("vtadl_jax.compiling", "page.css"), *more)
    return "\n".join(
        resources.files(package).joinpath(name).read_text(encoding="utf-8")
        for package, name in files
    )


def summary_of(reading: Reading, num_images: int) -> list[Figure]:
    """Returns the main figures at the top of a report."""
    f, memory = figures_lib.figures(reading), reading["memory"]
    found: list[Figure] = []
    if f.call is not None:
        once = si(reading["cycles"]["once"], digits=4)
        found.append(
            (
                "estimated cycles",
                si(reading["cycles"]["total"], digits=4),
                f"a device and call; {once} with loop bodies once",
            )
        )
        found.append(("a call", duration(f.call), f"{si(f.images_per_second)} images a second"))
        if reading["program"]["step"] == "train":
            s = figures_lib.schedule(reading, num_images)
            told = f"{s.epochs:g} epochs of {s.images} images, {s.calls} steps"
            found.append(("whole training", duration(s.seconds), told))
    chip = figures_lib.chip_of(reading)
    share = f"{percent(memory['needed'] / chip.hbm_bytes)} of {mib(chip.hbm_bytes)}" if chip else ""
    found.append(("memory needed", mib(memory["needed"]), share or "on each device"))
    if largest := reading.get("largest_batch"):
        found.append(("largest batch", str(largest["images"]), "images a device"))
    totals = reading["collective_totals"]
    if totals["instructions"]:
        told = f"{totals['instructions']} in the program; {mib(totals['bytes'])}"
        found.append(("collectives a call", str(totals["executed"]), told))
    found.append(("compilation", duration(reading["seconds"]["compile"]), "on this machine"))
    return found


def summary(items: Sequence[Figure]) -> str:
    made = "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><span>{escape(told)}</span></dd>"
        f"</div>"
        for name, value, told in items
    )
    return f'<section aria-label="Summary"><dl class="figures">{made}</dl></section>'


def bars(reading: Reading) -> str:
    """Draws cycles of the most expensive modules, forward and backward; the rest as one."""
    modules = list(reading["modules"].items())
    if len(modules) > MOST_BARS:
        rest = [ways for _, ways in modules[MOST_BARS - 1 :]]
        both = {way: sum(w[way] for w in rest) for way in ("forward", "backward")}
        modules = [*modules[: MOST_BARS - 1], (f"{len(rest)} others", both)]
    largest = max((sum(ways.values()) for _, ways in modules), default=1)
    rows = []
    for name, ways in modules:
        parts = "".join(
            f'<i class="{way}" style="width:{100 * ways[way] / largest:.2f}%"></i>'
            for way in ("forward", "backward")
            if ways[way]
        )
        rows.append(
            f'<div><dt title="{escape(name)}">{escape(name)}</dt><dd class="bar">{parts}</dd>'
            f'<dd class="value">{si(sum(ways.values()))}</dd></div>'
        )
    return (
        '<section><h2>Where the cycles go</h2><p class="key">'
        '<span><i class="forward"></i>forward, and what has no direction</span>'
        f'<span><i class="backward"></i>backward</span></p><dl class="bars">{"".join(rows)}</dl>'
        "</section>"
    )


def table(section: Section) -> str:
    classes = [' class="number"' if right else "" for right in section.right]

    def row(tag: str, cells: Sequence[str]) -> str:
        made = (
            f"<{tag}{kind}>{escape(cell)}</{tag}>"
            for cell, kind in zip(cells, classes, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    name = escape(section.title)
    head = f"<thead>{row('th', section.names)}</thead>" if any(section.names) else ""
    body = "".join(row("td", cells) for cells in section.rows)
    note = f'<p class="faint">{escape(section.note)}</p>' if section.note else ""
    return (
        f'<section><h2>{name}</h2><div class="wide" tabindex="0" role="region" aria-label="{name}">'
        f"<table>{head}<tbody>{body}</tbody></table></div>{note}</section>"
    )


def charts(title: str, curves: Sequence[tuple[str, str, Sequence[float], Sequence[float]]]) -> str:
    """Returns one chart per curve over the number of devices. curves: (name, unit, x, y)."""
    made = []
    for name, unit, x, y in curves:
        chart = line_chart(x, y, x_label="log2 of devices", y_label=unit, name=name)
        made.append(f"<figure><figcaption><b>{escape(name)}</b></figcaption>{chart}</figure>")
    return f'<section><h2>{escape(title)}</h2><div class="charts">{"".join(made)}</div></section>'


def settings(reading: Reading) -> str:
    fields = json.dumps(reading["program"]["fields"], indent=1)
    return (
        "<section><details><summary>Every field of the config</summary>"
        f"<pre>{escape(fields)}</pre></details></section>"
    )


def reading_page(
    title: str, subtitle: str, reading: Reading, sections: Sequence[Section], num_images: int
) -> str:
    parts = []
    if reading["fits"]:
        parts.append(summary(summary_of(reading, num_images)))
        if reading["modules"]:
            parts.append(bars(reading))
    parts += [table(section) for section in sections]
    return page(title, subtitle, [*parts, settings(reading)])
