"""Writes a ranking of training images as files: a table, a page with pictures, a list of names.

The list is what `update --remove` and `data.without` take. Reads the images that it draws; computes
no score.
"""

import base64
import csv
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from vtadl_jax.data.decode import loaded
from vtadl_jax.data.records import Record
from vtadl_jax.errors import printable
from vtadl_jax.report.names import cell
from vtadl_jax.report.picture_files import check_folder
from vtadl_jax.report.pictures import overlay_row, photo_of
from vtadl_jax.runtime.files import replacing, write_text
from vtadl_jax.training.suspects import Ranking

TABLE, PAGE, NAMES = "suspects.csv", "suspects.html", "suspects.txt"
SHOWN = 20  # lines in the terminal
PICTURES = 60  # most images on the page
PERCENTILES = (50, 99.9)  # of all maps' values: the ends of the colour scale
STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;"
    "color:#202124}img{max-width:100%;display:block;border-top:1px solid #ddd}"
)


def write_suspects(ranking: Ranking, folder: Path, count: int) -> list[Path]:
    """Writes the files of a ranking into a folder, and returns them.

    count: of the most novel images, which are in the list of names and on the page. Raises
    UserError if they can't be written.
    """
    check_folder(folder)
    write_table(ranking, folder / TABLE)
    names = [record.name for record in ranking.first(count)]
    with replacing(folder / NAMES, "w", newline="", errors="surrogateescape") as file:
        file.writelines(f"{name}\n" for name in names)
    write_text(folder / PAGE, page_of(ranking, min(count, PICTURES), count))
    return [folder / name for name in (TABLE, NAMES, PAGE)]


def told(ranking: Ranking, category: str, count: int) -> str:
    """Returns the ranking's first images as text for the terminal."""
    shown = ranking.order[: min(count, SHOWN)].tolist()
    lines = [
        "",
        f"{category}: {len(ranking.records)} training images, the most novel to the others first",
        "  novelty  p       image",
    ]
    for i in shown:
        name = printable(ranking.records[i].name)
        lines.append(f"  {ranking.scores[i]:7.2f}  {ranking.p_values[i]:.4f}  {name}")
    if count > len(shown):
        lines.append(f"  … the first {min(count, len(ranking.records))} are in {NAMES}")
    more = "image is" if ranking.num_above == 1 else "images are"
    lines.append(
        f"  {ranking.num_above} {more} farther above the median than any is below it; of good "
        f"images a few may be by chance: look at {PAGE}"
    )
    return "\n".join(lines)


def write_table(ranking: Ranking, path: Path) -> None:
    """Writes a row for each image, the most novel one first."""
    with replacing(path, "w", newline="", errors="backslashreplace") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["rank", "name", "novelty", "p_value"])
        for rank, i in enumerate(ranking.order.tolist(), 1):
            name = cell(ranking.records[i].name)
            score, p_value = ranking.scores[i], ranking.p_values[i]
            rows.writerow([rank, name, f"{score:.4f}", f"{p_value:.4g}"])


def page_of(ranking: Ranking, count: int, listed: int) -> str:
    """Returns a page with the `count` most novel images beside their maps; it loads nothing."""
    low, high = scale_of(ranking.maps)
    rows = []
    for rank, i in enumerate(ranking.order[:count].tolist(), 1):
        title = f"{rank}. {printable(ranking.records[i].name)}"
        numbers = f"novelty {ranking.scores[i]:.2f}   p {ranking.p_values[i]:.3g}"
        row = picture_of(ranking.records[i], ranking.maps[i], low, high, f"{title}   {numbers}")
        rows.append(f'<img alt="{html.escape(title)}" src="data:image/jpeg;base64,{encoded(row)}">')
    total = len(ranking.records)
    text = (
        f"The {count} of {total} training images that are most novel to the others. Novel is not "
        f"defective: look at each before you leave it out. {NAMES} lists the first {listed}: "
        f"delete the lines of good images, then give it to <code>update --remove</code>."
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Suspects</title>'
        f"<style>{STYLE}</style><h1>Suspects</h1><p>{text}</p>\n" + "\n".join(rows) + "\n</html>\n"
    )


def scale_of(maps: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the colour scale of maps."""
    low, high = np.percentile(maps, PERCENTILES).tolist()
    return low, max(high, low + 1e-3)


def picture_of(
    record: Record, novelty: np.ndarray, low: float, high: float, title: str
) -> Image.Image:
    """Draws an image beside its map [h, w], which is enlarged to it."""
    with loaded(record.image, 3) as pixels:
        photo = photo_of(pixels)
    height, width = photo.shape[:2]
    large = Image.fromarray(novelty.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return overlay_row(photo, np.asarray(large), low=low, high=high, title=title, masks=False)


def encoded(picture: Image.Image) -> str:
    """Returns a picture as a JPEG in base64."""
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=88)
        return base64.b64encode(file.getvalue()).decode()
