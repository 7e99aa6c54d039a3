"""The files of launch/ for the service: schemas, and that what they name exists."""

import re
from pathlib import Path

import pytest
from absl import flags

from tests.cli import ROOT
from vtadl_jax import serve
from vtadl_jax.serving.models import parse_models

LAUNCH = ROOT / "launch"
ENDING = 5 + 2 + 2  # seconds: preStop of Kubernetes, and those of `serving.http`


def yaml_of(name):
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((LAUNCH / name).read_text(encoding="utf-8")))


def flags_of(arguments):
    """Returns the values of the service's flags. Fails for a flag that it does not have."""
    import copy

    values = copy.deepcopy(serve.FLAGS)
    values.unparse_flags()
    try:
        rest = values(["serve", *arguments])
    except flags.Error as error:
        raise AssertionError(str(error)) from error
    assert rest == ["serve"]
    assert parse_models(values["model"].value)
    return values


def check_start(arguments, grace):
    values = flags_of(arguments)
    assert values["timeout_s"].value + ENDING <= grace
    if values["http"].value:
        assert (values["host"].value, values["port"].value) == ("0.0.0.0", 8000)


def test_the_kubernetes_files_fit_their_schema():
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in yaml_of("serve_kubernetes.yaml"):
        validate.validate(manifest, "1.33", strict=True)


def test_the_deployment_starts_the_service_without_privileges():
    deployment, service = yaml_of("serve_kubernetes.yaml")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_start(container["args"], pod["terminationGracePeriodSeconds"])
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness")}
    assert {probe["path"] for probe in probes.values()} == {"/ready"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == deployment["spec"]["selector"]["matchLabels"]
    ports = {port["name"] for port in container["ports"]}
    assert service["spec"]["ports"][0]["targetPort"] in ports
    assert container["env"][0]["name"] == serve.KEY
    (model,) = parse_models(flags_of(container["args"])["model"].value).values()
    assert str(model).startswith(container["volumeMounts"][0]["mountPath"])
    memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    values = flags_of(container["args"])
    assert 2 * values["max_bytes"].value * values["max_queue"].value < 0.6 * memory


def test_the_compose_file_fits_its_schema():
    schemas = pytest.importorskip("check_jsonschema.builtin_schemas")
    jsonschema = pytest.importorskip("jsonschema")
    schema = schemas.get_builtin_schema("vendor.compose-spec")
    (file,) = yaml_of("compose.yaml")
    jsonschema.validate(file, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(file | {"services": {"http": {"imagee": "x"}}}, schema)


def test_the_compose_file_starts_both_services_without_privileges():
    (file,) = yaml_of("compose.yaml")
    assert file["services"].keys() == {"http", "watch"}
    for service in file["services"].values():
        check_start(service["command"], int(service["stop_grace_period"].removesuffix("s")))
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["user"].split(":")[0] != "0"
        dockerfile = LAUNCH / service["build"]["context"] / service["build"]["dockerfile"]
        assert dockerfile.is_file()
    (port,) = file["services"]["http"]["ports"]
    assert port.startswith("127.0.0.1:")
    watch = flags_of(file["services"]["watch"]["command"])
    assert not watch["http"].value
    assert watch["results"].value


def test_the_image_copies_what_there_is_and_starts_the_service():
    text = (LAUNCH / "serve.Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
    (module,) = re.findall(r'^ENTRYPOINT \["python", "-m", "(.+)"\]', text, re.MULTILINE)
    assert module == serve.__name__
    (command,) = re.findall(r"^CMD \[(.+)\]$", text, re.MULTILINE)
    flags_of([word.strip(' "') for word in command.split(",")])
    users = re.findall(r"^USER (.+)$", text, re.MULTILINE)
    assert users[-1] == "10001:10001"


def test_the_image_installs_what_setup_declares_but_training_and_data_sets():
    lines = (LAUNCH / "serve_requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {name_of(line): line for line in lines if not line.startswith("#")}
    declared = setup_requirements()
    assert {name: declared[name] for name in wanted} == wanted
    needed = {"fastapi", "uvicorn", "python-multipart", "prometheus-client"}
    assert needed <= wanted.keys()
    left_out = next(line for line in lines if "Left out" in line).rpartition(": ")[2].rstrip(".")
    base = set(setup_requirements(extra=False))
    assert base - wanted.keys() == {name_of(name) for name in left_out.split(", ")}


def name_of(line):
    return re.split(r"[<>=!]", line)[0].lower().replace("_", "-")


def setup_requirements(extra=True):
    """Returns the requirements of setup.py and its extra `serve`, by name."""
    text = Path(ROOT, "setup.py").read_text(encoding="utf-8")
    (jax,) = re.findall(r'^JAX = "(.+)"', text, re.MULTILINE)
    base = re.findall(r"install_requires=\[(.*?)^    \]", text, re.MULTILINE | re.DOTALL)
    serve_extra = re.findall(r'"serve": \[(.*?)^        \]', text, re.MULTILINE | re.DOTALL)
    found = {}
    for line in re.findall(r'^ +f?"(.+?)",', "".join(base + serve_extra * extra), re.MULTILINE):
        line = line.replace("{JAX}", jax)
        found[name_of(line)] = line
    return found
