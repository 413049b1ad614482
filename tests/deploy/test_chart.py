"""The Helm chart, rendered by Helm's own engine; its commands are read by the program."""

import re
import tomllib
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.commands import CHART, ROOT, serving_options
from tests.deploy.test_containers import USER
from tests.serving.api.live import Live

helm = pytest.importorskip("helm_python", reason="Helm is not here; helm-python-sdk comes with the extra `test`")

KUBERNETES = "1.33"
KEYS = {"keys": {"existingSecret": "fourfold-keys"}}
ON_GPUS: dict[str, Any] = {
    **KEYS,
    "engine": "vllm",
    "gpus": 2,
    "replicas": 3,
    "model": "/models/minigpt-v2",
    "models": {"existingClaim": "checkpoints"},
    "extraArgs": ["--", "--tensor-parallel-size", "2"],
    "cache": {"persistent": False},
    "networkPolicy": {"enabled": True},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "imagePullSecrets": [{"name": "registry"}],
    "monitoring": {"serviceMonitor": True, "rules": True, "dashboard": True, "keySecret": "fourfold-prometheus"},
}
CASES = {"as it comes": KEYS, "on GPUs": ON_GPUS}


def rendered(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The documents by their kind; there is one of each."""
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="demo", namespace="prod")
    found = [part for name, text in files.items() if name.endswith(".yaml") for part in yaml.safe_load_all(text)]
    kinds = {part["kind"]: part for part in found if part}
    assert len(kinds) == len([part for part in found if part])
    return kinds


def container(documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (only,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def test_linted() -> None:
    findings = helm.lint(str(CHART), KEYS)
    assert not findings["errors"]
    assert [found["error"] for found in findings["messages"]] == ["icon is recommended"]


def test_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (
        chart["appVersion"]
        == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    )


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_keeps_to_the_schemas(values: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for kind, document in rendered(values).items():
        if "monitoring.coreos.com" not in document["apiVersion"]:
            validate(document, KUBERNETES, strict=True)
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo", kind


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_runs_the_server_without_rights(values: dict[str, Any]) -> None:
    documents = rendered(values)
    pod, inside = documents["Deployment"]["spec"]["template"]["spec"], container(documents)
    options = serving_options(inside["args"])
    assert options["engine"] == values.get("engine", "local") and options["host"] == "0.0.0.0"
    assert options["model"] == values.get("model")
    mounts = {mount["mountPath"]: mount for mount in inside["volumeMounts"]}
    keys = options["api_key_file"]
    assert keys.name == "keys" and mounts[str(keys.parent)]["readOnly"]
    assert {"/cache", "/tmp"} <= set(mounts)
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
    assert inside["ports"][0]["containerPort"] == options["port"]
    security = pod["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == USER and security["runAsNonRoot"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"} and not pod["automountServiceAccountToken"]
    assert inside["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "env" not in inside  # where secrets would show
    if values is ON_GPUS:
        assert options["extra"] == ["--tensor-parallel-size", "2"]
        assert inside["resources"]["limits"] == {"nvidia.com/gpu": 2, "memory": "4Gi"}


def test_probes_ask_the_routes(live: Live) -> None:
    inside = container(rendered(KEYS))
    asked = {kind: inside[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/ready", "readiness": "/ready", "liveness": "/live"}
    assert all(httpx.get(live.url + path).status_code == 200 for path in asked.values())
    startup = inside["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 900


def test_the_end_is_given_time() -> None:
    spec = rendered(KEYS)["Deployment"]["spec"]["template"]["spec"]
    _, before = container(rendered(KEYS))["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] >= int(before) + 20 + 10  # `Server`'s grace, and uvicorn's


def test_selectors_find_the_pods() -> None:
    documents = rendered(ON_GPUS)
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        documents["Deployment"]["spec"]["selector"]["matchLabels"],
        documents["Service"]["spec"]["selector"],
        documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    monitored = documents["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= documents["Service"]["metadata"]["labels"].items()
    (endpoint,), (port,) = documents["ServiceMonitor"]["spec"]["endpoints"], documents["Service"]["spec"]["ports"]
    assert endpoint["port"] == port["name"]


def test_rules_and_dashboard_are_the_files() -> None:
    documents = rendered(ON_GPUS)
    assert documents["PrometheusRule"]["spec"] == yaml.safe_load((CHART / "files" / "alerts.yml").read_text())
    shown = documents["ConfigMap"]["data"]["fourfold.json"]
    assert shown.strip() == (CHART / "files" / "dashboard.json").read_text().strip()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "keys.existingSecret"),
        ({**KEYS, "engine": "vllm"}, "set gpus"),
        ({**KEYS, "replicas": 2}, "cache.persistent"),
        ({**KEYS, "monitoring": {"serviceMonitor": True}}, "monitoring.keySecret"),
    ],
)
def test_what_cannot_run_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm.HelmError, match=said):
        rendered(values)


@pytest.mark.parametrize("values", [{"engine": "cuda"}, {"model": "relative"}, {"replica": 2}, {"gpus": -1}])
def test_what_there_is_not_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError):
        rendered(KEYS | values)


def test_the_page_names_values_that_there_are() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| (`.*?) \|", page.partition("## Kubernetes")[2].partition("\n## ")[0], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    named += re.findall(r"--set ([\w.]+)=", page)
    assert len(named) > 12
    whole = ""
    for name in named:
        whole = whole.rpartition(".")[0] + name if name.startswith(".") else name
        found: Any = values
        for part in whole.split("."):
            assert part in found, whole
            found = found[part]
