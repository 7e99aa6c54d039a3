"""The count of false alarms: its table, and that a small one keeps its bound."""

import json

import numpy as np
import pytest

from tests.factory import tiny_config
from vtadl_jax.benchmarks.false_alarms import (
    FLAGS,
    Bench,
    main,
    measure,
    row_of,
    table_of,
)
from vtadl_jax.data.synthetic.dataset import make_dataset
from vtadl_jax.errors import UserError
from vtadl_jax.evaluation.calibration import CROSS_FIT, calibrate


def split(alarms: float, count: int = 4) -> dict:
    terms = np.arange(float(count))[:, None]
    calibration = calibrate(
        ("a",), terms, None, weights=(1,), calibrated_by=CROSS_FIT, num_folds=count
    )
    fields = {"orientations": "none", "others": 10, "unlike_only": 0.0, "p_0.2": alarms}
    return {"calibration": calibration, "alarms": alarms, **fields}


def test_a_row_has_the_mean_over_splits_and_the_stated_rates():
    row = row_of(4, [split(0.1), split(0.3)], 0.05)
    assert row["alarm_rate"] == pytest.approx(0.2)
    assert row["standard_error"] == pytest.approx(0.1)
    assert (row["stated_rate"], row["bound"]) == (pytest.approx(0.2), pytest.approx(0.4))
    *_, line = table_of([row])
    assert line == "| 4 | leave-one-out | 20.0 % | 40.0 % | 20.0 % | 10.0 % | 0.0 % | 20.0 % |"


def test_mistakes_are_told(dataset, capsys):
    for flags, said in (
        (["--config", "configs/patch_memory.py", "--n", "a"], "give numbers of images"),
        ([], "no config: give --config FILE"),
    ):
        FLAGS.unparse_flags()
        assert main(["false_alarms", *flags]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(UserError, match="is trained in steps: give a config of a fitted one"):
        Bench(tiny_config(dataset, num_train_steps=2))


@pytest.mark.slow
def test_the_rate_of_false_alarms_is_within_its_bound(tmp_path):
    """On drawn parts, for few images, within the bound and three standard errors."""
    sizes = {"image_size": 32, "num_train": 60, "num_test_good": 1, "num_per_defect": 1}
    make_dataset(tmp_path, **sizes, categories=("plate",))
    fields = {"num_train_steps": 0, "num_epochs": 0, "data__category": "plate"}
    bench = Bench(tiny_config(tmp_path, "position_gaussian", mesh__data=1, **fields))
    rows = measure(bench, [2, 4, 8, 16, 58], splits=8, most=30)
    assert [row["images"] for row in rows] == [2, 4, 8, 16]  # 58 leave too few others
    for row in rows:
        assert row["calibrated_by"] == CROSS_FIT
        assert row["alarm_rate"] <= row["bound"] + 3 * row["standard_error"]
    json.dumps(rows)
