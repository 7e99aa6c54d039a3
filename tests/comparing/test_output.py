"""The tables and the page of a comparison, of cells that nobody trained."""

import csv
import io
import re
from xml.etree import ElementTree

import pytest

from tests.comparing.factory import fake_cell
from vtadl_jax.comparing.drawing import Bar, Point, Scale, bars, place_label, radar, scatter
from vtadl_jax.comparing.page import AXES, shape
from vtadl_jax.comparing.rows import row_of, to_csv
from vtadl_jax.comparing.tables import tables_of
from vtadl_jax.comparing.writing import BEGIN, END, write_all, write_into
from vtadl_jax.errors import UserError
from vtadl_jax.report.published_comparison import COSTS, METHODS, PRO, published_pro

NO_MAP = {"image_auroc": {"mean": 0.7, "spread": None}, "aupro": None, "pixel_auroc": None}
FAILED = {"method": "vtadl", "category": "screw", "status": "failed", "reason": "too <large>"}


@pytest.fixture
def cells():
    spread = {"image_auroc": {"mean": 0.9, "spread": 0.05}}
    return [
        fake_cell(),
        fake_cell("unet_tiny", metrics={**fake_cell()["metrics"], **spread}),
        fake_cell("capsnet", metrics=NO_MAP),
        fake_cell("spade", "screw"),
        FAILED,
    ]


def test_a_row_has_ours_and_the_published_values(cells):
    row = row_of(cells[1])
    assert (row["thesis_pro"], row["thesis_parameters"]) == (0.97, 3_352_257)
    assert (row["aupro"], row["image_auroc_spread"], row["folds"]) == (0.8, 0.05, "1 of 5")
    assert (row["num_test_good"], row["num_test_defective"]) == (7, 5)
    assert row["supervised"]
    assert row["latency cpu bfloat16"] is None
    assert not row_of(cells[0])["supervised"]
    assert row_of(FAILED)["reason"] == "too <large>"


def test_what_a_fit_wrote_was_not_trained():
    fitted = fake_cell(training={**fake_cell()["training"], "steps": 0})
    row = row_of(fitted)
    assert (row["trained_values"], row["statistics_values"]) == (0, 3_352_269)


def test_the_files(cells, tmp_path):
    text = write_all(tmp_path, cells)
    assert "| Unet (Tiny) | masks | no | 4 of 100 | 7 + 5, 1 of 5 folds | 0.900 ± 0.050 |" in text
    assert "PRO in the thesis is another measure than AU-PRO" in text
    assert "| screw | VT-ADL | failed | too <large> |" in text
    assert "ONNX: not exported: this version has no ONNX exporter." in text
    assert text == (tmp_path / "comparison.md").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "comparison.csv").read_text())))
    assert [row["status"] for row in rows] == ["complete"] * 4 + ["failed"]
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:)", page), "nothing is loaded"
    assert "<script" not in page
    assert "too &lt;large&gt;" in page
    drawn = re.findall(r"<svg class=\"drawn.*?</svg>", page, re.DOTALL)
    assert len(drawn) >= 12
    for svg in drawn:
        ElementTree.fromstring(svg)


def test_the_tables_of_a_document(cells, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"# A\n\n{BEGIN}\nold\n{END}\n\nmore\n", encoding="utf-8")
    for _ in range(2):
        write_into(path, cells)
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# A\n\n{BEGIN}\n## AU-PRO (0.3) by category\n")
        assert text.endswith(f"\n{END}\n\nmore\n")
        assert text.count("## bottle") == 1
        assert "| SPADE | good images | 0.800 | 0.800 | 0.800 |" in text
        assert "| Unet (Tiny) | masks | 0.800 | – | – |" in text
    (tmp_path / "other.md").write_text("# B\n")
    with pytest.raises(UserError, match="has no lines"):
        write_into(tmp_path / "other.md", cells)
    with pytest.raises(UserError, match="can't be read"):
        write_into(tmp_path / "absent.md", cells)


def test_no_cell_has_results(tmp_path):
    assert "No cell has results yet." in write_all(tmp_path, [FAILED])
    assert (tmp_path / "comparison.html").is_file()
    assert write_all(tmp_path, [])
    assert to_csv([]).strip() == ""
    assert tables_of([]) == []


def test_a_radar_shows_larger_as_better(cells):
    fast = fake_cell("unet", latency={"cpu float32": {"seconds": 0.002}})
    rows = [row_of(cell) for cell in (cells[0], fast, cells[2])]
    slow, quick, without_map = (dict(zip(AXES, shape(r, rows), strict=True)) for r in rows)
    assert quick["fast"] == 1.0
    assert slow["fast"] == pytest.approx(0.1)
    assert slow["images"] == pytest.approx(0.82)
    assert without_map["AU-PRO"] is None


def test_bars_end_at_their_values():
    svg = bars("x", [Bar("a", 0.5, "0.500", "one-class", 1.0), Bar("b", None, "no map", "x")],
               Scale(0.0, 1.0, 0, 1))  # fmt: skip
    (rect,) = (e for e in ElementTree.fromstring(svg) if e.tag == "rect")
    left = float(rect.get("x"))
    assert float(rect.get("width")) == pytest.approx((520 - left) / 2, abs=0.1)
    assert "no map" in svg
    assert bars("x", [Bar("a", None, "–", "x")]) == ""


def test_labels_of_near_points_do_not_overlap():
    taken: list = []
    inside = (0.0, 0.0, 500.0, 400.0)
    for number in range(5):
        place_label(f"method {number}", 200.0, 200.0, taken, inside)
    for i, one in enumerate(taken):
        for other in taken[:i]:
            assert one[0] >= other[2] or one[2] <= other[0] or one[1] >= other[3] or (
                one[3] <= other[1]
            )  # fmt: skip
    assert scatter("x", [], "a", "b", str) == ""
    points = [Point("<a>", 0.01, 0.9, "one-class"), Point("b", 1.0, 0.2, "supervised")]
    ElementTree.fromstring(scatter("x", points, "a", "b", str))
    ElementTree.fromstring(radar("x", AXES, [0.5, None, 1.0, 0.0, 0.2], "one-class"))


def test_the_means_of_the_published_pro():
    """The printed means of tables 7.3 and 7.4, but for roundings of Tiny and UNet++."""
    printed = {
        "VT-ADL": (0.81, 0.89), "SPADE": (0.94, 0.98), "FCN32": (0.86, 0.89),
        "Unet (Tiny)": (0.92, 0.93), "Unet++": (0.93, 0.92), "Unet2": (0.91, 0.96),
        "SegNet": (0.88, 0.89),
    }  # fmt: skip
    assert set(printed) == set(METHODS) == set(COSTS) == set(PRO)
    for method, means in printed.items():
        values = list(PRO[method].values())
        found = sum(values[:13]) / 13, sum(values[13:]) / 3
        assert found == pytest.approx(means, abs=0.012)
    assert published_pro("VT-ADL", "carpet") is None
    assert published_pro("", "bottle") is None
