"""Formats numbers for people."""


def si(value: float | None, unit: str = "", digits: int = 3) -> str:
    """Formats a number with an SI prefix: 12.3 M, 4.56 k; '–' for None."""
    if value is None:
        return "–"
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.{digits}g} {prefix}{unit}"
    return f"{value:.{digits}g} {unit}".rstrip()


def mib(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "–"
    if abs(num_bytes) < 2**20:
        return f"{num_bytes / 2**10:.1f} KiB"
    if abs(num_bytes) >= 2**30:
        return f"{num_bytes / 2**30:.2f} GiB"
    return f"{num_bytes / 2**20:.1f} MiB"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.3g} µs"
    if abs(seconds) < 1:
        return f"{seconds * 1e3:.3g} ms"
    if abs(seconds) < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{seconds / 3600:.3g} h"


def percent(part: float | None, signed: bool = False) -> str:
    if part is None:
        return "–"
    return f"{100 * part:+.1f} %" if signed else f"{100 * part:.1f} %"


def thousands(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
