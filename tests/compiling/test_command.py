"""The command line of compile studies, for this machine's devices."""

import json
import sys

import pytest

from tests.cli import run_cli, run_main
from vtadl_jax.compiling.topology import find_target
from vtadl_jax.errors import UserError

CONFIG = """from tests.factory import tiny_config
from vtadl_jax.options import to_config_dict


def get_config(argument=""):
    return to_config_dict(tiny_config(model__vit__depth=int(argument or 2)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "tiny.py").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_reports_and_compares_with_another_config(folder):
    arguments = (f"--config={folder / 'tiny.py'}", f"--output={folder}", "--step=eval", "--dump")
    done = run_cli("vtadl_jax.compile", *arguments)
    assert done.returncode == 0, done.stderr
    assert "tiny, eval step on local" in done.stdout
    stem = folder / "tiny-eval-local"
    reading = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    assert reading["fits"]
    assert reading["programs"] == 1
    assert reading["work"]["flops"] > 0
    assert reading["memory"]["arguments"] > 4 * reading["program"]["num_parameters"]
    assert reading["program"]["fields"]["model.vit.depth"] == 2
    for kind in ("md", "html", "after.hlo.txt", "before.hlo.txt", "stablehlo.mlir"):
        assert (folder / f"{stem.name}.{kind}").stat().st_size > 500
    # Compares the config with itself at another depth.
    done = run_cli("vtadl_jax.compile", *arguments[:3], f"--against={folder / 'tiny.py'}:5")
    assert done.returncode == 0, done.stderr
    assert "config.model.vit.depth  5       2" in done.stdout
    written = json.loads((folder / "tiny-eval-local-against-tiny.json").read_text(encoding="utf-8"))
    assert written["before"]["program"]["fields"]["model.vit.depth"] == 5
    # The first call's reading is reused: two compilations never take exactly the same time.
    assert written["after"]["seconds"] == reading["seconds"]
    assert written["before"]["seconds"] != reading["seconds"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--step=test", "--step test: use train, eval, predict"),
        ("--topology=v9:2x2", "topology 'v9:2x2': give local, or a chip"),
        ("--against=nowhere.json", "--against nowhere.json can't be read"),
        ("--sweep=2x2", "sweep '2x2': begin with a chip"),
        ("--xla=xla_nope=1", "--xla xla_nope=1 on local: No such compile option: 'xla_nope'"),
        ("--xla=xla_nope", "--xla 'xla_nope': give NAME=VALUE"),
        ("--search_flags=time", "flag --search_flags=time: value should be one of"),
        ("--with_python=nowhere", "--with_python nowhere does not run as a Python interpreter"),
        ("--pareto=0", "--pareto '0': give images a device"),
        ("--measured=nowhere", "--measured nowhere holds no *.trace.json.gz"),
        ("--measured=x --sweep=v5e:1x1", "--measured is of one program: leave it out with --sweep"),
        ("--pareto=8 --search_flags=memory", "--pareto and --search_flags are two studies"),
        ("--pareto=8 --step=eval", "--step eval: --pareto is of the train step"),
        ("--methods=all", "--methods takes the configs of the methods: leave out --config"),
    ],
)
def test_errors_are_one_line(capsys, folder, argument, message):
    arguments = (f"--config={folder / 'tiny.py'}", f"--output={folder}", *argument.split())
    done = run_main(capsys, "vtadl_jax.compile", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_methods_are_checked_before_anything_is_written(capsys, tmp_path):
    done = run_main(capsys, "vtadl_jax.compile", "--methods=unett", f"--output={tmp_path / 'new'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: detector 'unett': did you mean unet?")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_flags_are_searched_and_the_search_continues(folder):
    arguments = (
        f"--config={folder / 'tiny.py'}", f"--output={folder}", "--step=ssim",
        "--search_flags=memory",
    )  # fmt: skip
    done = run_cli("vtadl_jax.compile", *arguments)
    assert done.returncode == 0, done.stderr
    stem = folder / "tiny-ssim-local-flags"
    found = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    assert found["goal"] == "memory"
    assert found["tried"][0]["flags"] == {}
    assert sum(one["best"] for one in found["tried"]) == 1
    again = run_cli("vtadl_jax.compile", *arguments)
    assert again.returncode == 0, again.stderr
    repeated = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
    assert repeated == found  # with the seconds of the first compilations


@pytest.mark.slow
def test_another_interpreter_compiles_the_same_step(folder):
    arguments = (
        f"--config={folder / 'tiny.py'}", f"--output={folder / 'with'}", "--step=ssim",
        f"--with_python={sys.executable}",
    )  # fmt: skip
    done = run_cli("vtadl_jax.compile", *arguments)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "with").glob("tiny-ssim-local-against-jax-*.json")
    written = json.loads(path.read_text(encoding="utf-8"))
    before, after = written["before"], written["after"]
    assert before["compiler"]["flags"] == after["compiler"]["flags"]
    assert before["instructions"] == after["instructions"]


def test_a_topology_without_the_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr("vtadl_jax.compiling.topology.has_tpu_compiler", lambda: False)
    with pytest.raises(UserError, match=r"pip install 'vtadl_jax\[tpu\]'"):
        find_target("v5e:2x2")
