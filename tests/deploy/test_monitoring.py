"""Dashboard and alerts: their queries are PromQL, and name what /metrics shows and nothing else."""

import json
import re
import shutil
import subprocess
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.commands import CHART, DEPLOY
from tests.deploy.test_containers import COMPOSE
from tests.serving.api.live import Live

promql = pytest.importorskip("promql_parser", reason="the parser of PromQL is not here; it comes with the extra `test`")

DASHBOARD: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((CHART / "files" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
SHOWN = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
OF_PROMETHEUS = {"up"}


def metrics(expression: str) -> set[str]:
    """The metrics that a query names, read from its syntax tree."""
    named: set[str] = set()
    todo: list[Any] = [promql.parse(expression.replace("$__rate_interval", "5m"))]
    while todo:
        part = todo.pop()
        if isinstance(part, promql.VectorSelector):
            named.add(part.name)
        for child in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
            if (found := getattr(part, child, None)) is not None and not isinstance(found, str | float):
                todo.append(found)
        todo += getattr(part, "args", None) or []
    assert named, expression
    return named


@pytest.fixture(scope="module")
def exposed(live: Live) -> set[str]:
    """Names of what a server exposes, those of histograms as they can be asked for."""
    page = httpx.get(f"{live.url}/metrics").text
    names: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE):
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return {name for name in names if not name.endswith("_created")}


def test_the_parser_finds_names() -> None:
    assert metrics('sum by (a) (rate(x_total{b="c"}[$__rate_interval])) / sum(y) > 0.5') == {"x_total", "y"}
    assert metrics("histogram_quantile(0.9, sum by (le) (rate(z_bucket[5m])))") == {"z_bucket"}
    with pytest.raises(ValueError, match="unclosed"):
        metrics("sum(rate(")


def test_the_dashboard_shows_all_that_is_measured_and_nothing_else(exposed: set[str]) -> None:
    named = set().union(*(metrics(query) for query in SHOWN))
    assert named <= exposed
    # A histogram is shown by its buckets.
    assert {re.sub(r"_(sum|count)$", "_bucket", name) for name in exposed} == named


def test_every_alert_can_go_off_by_what_is_measured(exposed: set[str]) -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 5
    for rule in RULES:
        assert metrics(rule["expr"]) <= exposed | OF_PROMETHEUS
        assert rule["labels"]["severity"] in ("critical", "warning") and rule["annotations"]["summary"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here; Debian's package prometheus has it")
def test_alerts_go_off_when_they_should() -> None:
    command = ["promtool", "test", "rules", "alerts_test.yml"]
    said = subprocess.run(command, cwd=DEPLOY / "monitoring", capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr


def test_every_alert_has_an_example() -> None:
    examples = yaml.safe_load((DEPLOY / "monitoring" / "alerts_test.yml").read_text(encoding="utf-8"))
    (file,) = examples["rule_files"]
    assert (DEPLOY / "monitoring" / file).resolve() == CHART / "files" / "alerts.yml"
    assert {one["alertname"] for one in examples["tests"][0]["alert_rule_test"]} == {rule["alert"] for rule in RULES}


def test_labels_that_are_asked_for_are_there(live: Live) -> None:
    """The page counts itself, so that there is a request with a status."""
    httpx.get(f"{live.url}/metrics")
    page = httpx.get(f"{live.url}/metrics").text
    (labels,) = set(re.findall(r'fourfold_http_requests_total\{(\w+)="[^"]*",(\w+)="', page))
    assert set(labels) == {"route", "status"}
    for query in (*SHOWN, *(rule["expr"] for rule in RULES)):
        if "http_requests" in query:
            grouped = re.findall(r"by \(([^)]*)\)", query)
            assert set(", ".join(grouped).split(", ")) <= {"route", "status", "instance"}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_reads_the_server_of_the_compose_file(live: Live) -> None:
    settings = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = settings["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == "fourfold:8000" and "fourfold" in COMPOSE["services"]
    assert httpx.get(live.url + job["metrics_path"]).status_code == 200
    service = COMPOSE["services"]["prometheus"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{service['secrets'][0]}"
    mounted = {mount.split(":")[1] for mount in service["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in (*settings["rule_files"], "prometheus.yml")} <= mounted


def test_grafana_finds_the_dashboard() -> None:
    mounts = dict(mount.split(":")[:2] for mount in COMPOSE["services"]["grafana"]["volumes"])
    monitoring = DEPLOY / "monitoring"
    (provider,) = yaml.safe_load((monitoring / "grafana-dashboards.yml").read_text(encoding="utf-8"))["providers"]
    assert mounts["./helm/fourfold/files/dashboard.json"].startswith(provider["options"]["path"] + "/")
    (source,) = yaml.safe_load((monitoring / "grafana-datasource.yml").read_text(encoding="utf-8"))["datasources"]
    assert source["type"] == DASHBOARD["templating"]["list"][0]["query"] == "prometheus"
    assert source["url"] == "http://prometheus:9090" and "prometheus" in COMPOSE["services"]
