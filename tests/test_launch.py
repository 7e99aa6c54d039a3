"""The launch scripts for clusters: checks that need no cluster."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", sorted(LAUNCH.iterdir()), ids=lambda p: p.name)
def test_each_says_what_was_run_and_what_was_not(path):
    head = "".join(path.read_text().splitlines(keepends=True)[:14])
    assert re.search(r"Run by the project's tests|Not (run|built) by its authors", head)


def jobset():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_the_jobset_is_one_and_its_jobs_fit_kubernetes_schema():
    validate = pytest.importorskip("kubernetes_validate")
    manifest = jobset()
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert manifest["kind"] == "JobSet"
    assert manifest["spec"].keys() <= {"failurePolicy", "replicatedJobs", "network", "suspend"}
    for job in manifest["spec"]["replicatedJobs"]:
        assert job.keys() == {"name", "replicas", "template"}
        template = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}}
        validate.validate(template | job["template"], "1.33", strict=True)


def test_the_jobset_takes_every_chip_of_its_slice():
    (job,) = jobset()["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(pod["containers"][0]["resources"]["limits"]["google.com/tpu"])
    assert spec["parallelism"] == spec["completions"] == int(rows) * int(columns) // chips


def test_local_refuses_to_start_nothing():
    run = subprocess.run(
        [LAUNCH / "local.sh"], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode != 0
    assert "give the number of processes" in run.stderr
