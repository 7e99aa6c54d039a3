"""Facts about tables over categories: exact text, means, round trips, and the papers' figures."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.results import Results
from vtadl_jax.report.published import CAPSNET, PUBLISHED, published_methods
from vtadl_jax.report.tables import category_table, to_csv, to_json, to_markdown, write_tables

PAPERS = Path(__file__).resolve().parents[3] / "shared" / "papers"


def _result(value, **changes):
    result = {
        "image_auroc": value,
        "image_average_precision": value / 3,
        "pixel_auroc": value / 7,
        "aupro": value / 9,
        "aupro_at": {"0.05": value / 11, "0.3": value / 9},
        "fpr_limit": 0.3,
        "step": 400,
        "num_test_images": 10,
        "seconds": 1.5,
    }
    return Results.from_dict(result | changes)


def _column(table, key):
    i = [column.key for column in table.columns].index(key)
    return {name: row[i] for name, row in table.rows.items()}, table.means()[i]


def test_markdown_of_a_small_example():
    undefined = {"pixel_auroc": None, "aupro": None, "aupro_at": None}
    table = category_table({"part10": _result(0.9), "part2": _result(0.6, **undefined)})
    assert to_markdown(table) == (
        "| category | image AUROC | image AP | pixel AUROC | AU-PRO (FPR 0.3) | AU-PRO (FPR 0.05) "
        "| step | test images | seconds |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        "| part2 | 0.600 | 0.200 | - | - | - | 400 | 10 | 1.500 |\n"
        "| part10 | 0.900 | 0.300 | 0.129 | 0.100 | 0.082 | 400 | 10 | 1.500 |\n"
        "| mean | 0.750 | 0.250 | 0.129 (1 of 2) | 0.100 (1 of 2) | 0.082 (1 of 2) "
        "| - | - | 1.500 |\n"
    )


def test_published_figures_are_marked_with_their_metric_and_source():
    table = category_table({"bottle": _result(0.9), "tile": _result(0.6)}, "mvtec_ad")
    text = to_markdown(table)
    assert " AU-PRO (FPR 0.05) | published: VT-ADL, AU-PRO (FPR 0.3) | step |" in text
    assert text.endswith(
        "\n\nPublished AU-PRO (FPR 0.3): Mishra et al. 2021 (VT-ADL), table III.\n"
    )
    ours = [column.key for column in table.columns if not column.source]
    assert not any("published" in key for key in ours)


def test_published_mean_is_over_the_categories_shown():
    table = category_table({"bottle": Results(), "tile": Results(), "mine": Results()}, "mvtec_ad")
    values, mean = _column(table, "published: VT-ADL, AU-PRO (FPR 0.3)")
    assert values == {"tile": 0.796, "bottle": 0.949, "mine": None}
    assert mean == (pytest.approx((0.796 + 0.949) / 2), 2)
    assert "| 0.873 (2 of 3) |" in to_markdown(table)


def test_order_is_the_printed_one_then_the_natural_one():
    names = ["zipper", "new10", "carpet", "new2", "bottle"]
    results = {name: _result(0.5) for name in names}
    assert list(category_table(results).rows) == ["bottle", "carpet", "new2", "new10", "zipper"]
    printed = ["carpet", "bottle", "zipper", "new2", "new10"]
    assert list(category_table(results, "mvtec_ad").rows) == printed
    assert list(category_table(results, "mvtec_ad", methods=()).rows) == printed


def test_two_metrics_of_one_paper_table_are_two_columns():
    results = {"01": _result(0.5, image_pr_auc=0.25)}
    table = category_table(results, "btad", ("AE MSE", "VT-ADL"))
    assert _column(table, "published: VT-ADL, AU-PRO (FPR 0.3)")[0] == {"01": 0.92}
    assert _column(table, "published: VT-ADL, PR AUC")[0] == {"01": 0.99}
    assert _column(table, "published: AE MSE, PR AUC")[0] == {"01": 0.49}
    assert _column(table, "image_pr_auc")[0] == {"01": 0.25}
    assert "published: AE MSE, AU-PRO (FPR 0.3)" not in to_csv(table)


def test_aupro_up_to_different_limits_is_never_in_one_column():
    a = {"aupro": 0.1, "fpr_limit": 0.1}
    b = {"aupro": 0.3, "aupro_at": {"0.30": 0.3, "0.05": 0.05}}
    stored = {"a": a, "b": b, "c": {"aupro": 0.7}}
    table = category_table({name: Results.from_dict(values) for name, values in stored.items()})
    assert _column(table, "aupro_0.1")[0] == {"a": 0.1, "b": None, "c": None}
    assert _column(table, "aupro_0.3")[0] == {"a": None, "b": 0.3, "c": None}
    assert _column(table, "aupro_0.05")[0] == {"a": None, "b": 0.05, "c": None}
    assert _column(table, "aupro")[0] == {"a": None, "b": None, "c": 0.7}


def test_absent_none_and_nan_are_undefined_everywhere():
    stored = {"a": {}, "b": {"image_auroc": None}, "c": {"image_auroc": float("nan")}}
    table = category_table({name: Results.from_dict(values) for name, values in stored.items()})
    assert set(table.rows) == set(stored)
    counts = [column.key in ("step", "num_test_images") for column in table.columns]
    for row in table.rows.values():
        assert row == tuple(0 if count else None for count in counts)
    assert set(table.means()) == {(None, 0)}
    assert json.loads(to_json(table))["mean"]["image_auroc"] is None


def test_csv_and_json_keep_full_precision():
    results = {'a, "b"': _result(1 / 3), "c": _result(np.float32(0.1), pixel_auroc=None)}
    table = category_table(results, "mvtec_ad")
    *rows, mean, over = csv.DictReader(io.StringIO(to_csv(table)))
    content = json.loads(to_json(table))
    assert [row["category"] for row in (mean, over)] == ["mean", "mean_over"]
    assert [column["key"] for column in content["columns"]] == list(mean)[1:]
    for name, row, stored in zip(table.rows, rows, content["categories"], strict=True):
        assert row.pop("category") == stored.pop("category") == name
        assert tuple(float(v) if v else None for v in row.values()) == table.rows[name]
        assert tuple(stored.values()) == table.rows[name]
    for key, value in content["mean"].items():
        assert mean[key] == ("" if value is None else repr(value))
    assert rows[0]["image_auroc"] == repr(1 / 3)
    assert (over["pixel_auroc"], content["mean_over"]["pixel_auroc"]) == ("1", 1)
    assert content["mean"]["image_auroc"] == pytest.approx((1 / 3 + np.float32(0.1)) / 2, rel=1e-15)


def test_write_tables_replaces_all_three_and_leaves_nothing_else(tmp_path):
    folder = tmp_path / "runs" / "all"
    write_tables(folder, category_table({"old": _result(0.1)}))
    table = category_table({"new": _result(0.2)})
    paths = write_tables(folder, table)
    assert paths == [folder / f"summary.{suffix}" for suffix in ("md", "csv", "json")]
    assert sorted(folder.iterdir()) == sorted(paths)
    texts = [path.read_bytes().decode() for path in paths]
    assert texts == [to_markdown(table), to_csv(table), to_json(table)]


def test_write_tables_says_where_it_cannot_write_and_keeps_what_was_there(tmp_path):
    table = category_table({"a": _result(0.2)})
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match=r"file can't be written \(File exists\): move what"):
        write_tables(file, table)
    assert file.read_text() == "mine"
    (tmp_path / "summary.md").write_text("old")
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(UserError, match=r"summary\.json can't be written \(Is a directory\)"):
        write_tables(tmp_path, table)
    assert (tmp_path / "summary.md").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "summary.json", "summary.md"]


@pytest.mark.parametrize(
    ("results", "options", "text"),
    [
        ({}, {}, "no results to make a table of"),
        ({"a": {}}, {"published": "visa"}, "'visa': choose one of mnist, mvtec_ad, btad, fashion"),
        (
            {"a": {}},
            {"published": "btad", "methods": ("LSA",)},
            r"'LSA' on btad: choose of VT-ADL, AE MSE, AE MSE\+SSIM",
        ),
        ({"a": {"image_auroc": "high"}}, {}, "image_auroc of a is 'high', not a number: evaluate"),
        ({"a": {"aupro_at": {"x": 1}}}, {}, "limit of aupro_at of a is 'x', not a number"),
    ],
)
def test_mistakes_are_named(results, options, text):
    results = {name: Results.from_dict(values) for name, values in results.items()}
    with pytest.raises(UserError, match=text) as caught:
        category_table(results, **options)
    assert "\n" not in str(caught.value)


TABLES = [(name, table) for name, tables in PUBLISHED.items() for table in tables]
WRONG_IN_PRINT = {("mvtec_ad", "Ano GAN")}  # printed 0.443; the mean of its column is 0.447


@pytest.mark.parametrize(("data_set", "table"), TABLES)
def test_published_columns_have_the_printed_means(data_set, table):
    for i, method in enumerate(table.methods):
        column = [row[i] for row in table.rows.values()]
        unit = 10.0 ** -len(repr(table.means[i]).partition(".")[2])  # rounded or truncated
        off = abs(np.mean(column) - table.means[i])
        assert (off < unit) == ((data_set, method) not in WRONG_IN_PRINT), (method, off)


@pytest.mark.parametrize(("data_set", "table"), TABLES)
def test_published_tables_are_whole(data_set, table):
    assert len(table.rows) == {"mvtec_ad": 15, "btad": 3}.get(data_set, 10)
    assert len(table.means) == len(table.methods) == len(set(table.methods))
    assert {len(row) for row in table.rows.values()} == {len(table.methods)}
    # The key names a column of ours, or the figures would stand beside nothing.
    ours = category_table({next(iter(table.rows)): _result(0.5)}, data_set, table.methods)
    assert table.key in [column.key for column in ours.columns if not column.source]


def test_published_figures_are_those_of_the_paper():
    """Every row and header, against each text of the paper that there is."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(PAPERS.glob("*.txt"))]
    texts = [text for text in texts if "# VT-ADL: A Vision Transformer Network" in text[:200]]
    if not texts:
        pytest.skip("the text of the paper is not beside the repository")
    mnist, mvtec = PUBLISHED["mnist"][0], PUBLISHED["mvtec_ad"][0]
    pro, pr = PUBLISHED["btad"]
    expected = [("Class", *mnist.methods), ("Category", *mvtec.methods[:-1], "VT-ADL (Ours)")]
    expected += [(name, *row) for name, row in mnist.rows.items()]
    expected += [(name.replace("_", " ").title(), *row) for name, row in mvtec.rows.items()]
    expected += [(f"{int(name) - 1}", *pro.rows[name], *pr.rows[name]) for name in pro.rows]
    expected += [("Mean", *mnist.means), ("Means", *mvtec.means), ("Mean", *pro.means, *pr.means)]
    for text in texts:
        printed = _printed_rows(text)
        assert [row for row in expected if row not in printed] == []


def test_published_accuracies_are_those_of_the_thesis():
    texts = [path.read_text(encoding="utf-8") for path in sorted(PAPERS.glob("*.txt"))]
    texts = [text for text in texts if "Proposed, 10% an." in text]
    if not texts:
        pytest.skip("the text of the thesis is not beside the repository")
    labels = {"proposed": "Proposed", "standard": "Standard"}
    expected = []
    for data_set in ("mnist", "fashion_mnist", "kmnist"):
        table = PUBLISHED[data_set][-1]
        for i, method in enumerate(table.methods):
            kind, share = re.match(r"CapsNet (\w+), (\d+) %", method).groups()
            values = [row[i] for row in table.rows.values()] + [table.means[i]]
            printed = [round(100 * value, 2) for value in values]
            expected.append((f"{labels[kind]}, {share}% an.", *printed))
    for text in texts:
        assert [row for row in expected if row not in _printed_rows(text)] == []


def test_each_detector_stands_beside_figures_of_its_own_method():
    assert published_methods("mnist", "capsnet") == CAPSNET
    assert published_methods("cifar10", "capsnet") == CAPSNET[:1]
    assert published_methods("mnist", "vtadl") == ("VT-ADL",)
    assert published_methods("mvtec_ad", "pyramid_ae") == ("Pyr. AE",)
    assert published_methods("cifar10", "piade") == ("PIADE",)
    assert published_methods("kmnist", "vtadl") == published_methods("", "capsnet") == ()
    table = category_table({"3": _result(0.9, image_accuracy=0.75)}, "mnist", CAPSNET)
    assert _column(table, "image_accuracy")[0] == {"3": 0.75}
    assert _column(table, f"published: {CAPSNET[0]}, image accuracy")[0] == {"3": 0.9921}


def _printed_rows(text):
    """Rows of HTML tables, or of lines with tabs; numbers as floats but for the first cell."""
    if "<table" in text:
        rows = re.findall(r"<tr.*?</tr>", text, re.DOTALL)
        cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    else:
        cells = [line.split("\t") for line in text.splitlines() if "\t" in line]
    plain = [[re.sub(r"<.*?>", "", cell).strip() for cell in row] for row in cells]
    return {(row[0], *map(_as_number, row[1:])) for row in plain}


def _as_number(text):
    return float(text) if re.fullmatch(r"[\d.]+", text) and text.count(".") <= 1 else text
