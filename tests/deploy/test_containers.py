"""Images and compose file: linted, and what they run and set is what the program takes. Nothing is built here."""

import fnmatch
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.deploy.commands import DEPLOY, OF_OTHERS, ROOT, serving_options, variables_read
from tests.serving.api.live import Live

DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
USER = "10001:10001"


def instructions(name: str) -> list[tuple[str, str]]:
    """Of the last stage: what its image is made of."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    pairs = [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines if line.strip()]
    last = max(place for place, (word, _) in enumerate(pairs) if word == "FROM")
    return pairs[last:]


def one(name: str, word: str) -> str:
    (found,) = (rest for kind, rest in instructions(name) if kind == word)
    return found


def variables(name: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for kind, rest in instructions(name) if kind == "ENV" for pair in rest.split())


@pytest.mark.parametrize("name", DOCKERFILES)
def test_linted(name: str) -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not here; it comes with the extra `test`")
    said = subprocess.run([program, "--format", "json", DEPLOY / name], capture_output=True, text=True, timeout=60)
    assert (json.loads(said.stdout), said.returncode) == ([], 0), said.stderr


@pytest.mark.parametrize("name", DOCKERFILES)
def test_image(name: str) -> None:
    options = serving_options(json.loads(one(name, "CMD")))
    assert json.loads(one(name, "ENTRYPOINT")) == ["fourfold"]
    assert options["engine"] == ("vllm" if "cuda" in name else "local")
    assert (options["host"], str(options["port"])) == ("0.0.0.0", one(name, "EXPOSE"))
    assert str(options["api_key_file"]) == "/run/secrets/keys" and not options["allow_unauthenticated"]
    assert one(name, "USER") == USER and one(name, "STOPSIGNAL") == "SIGTERM"
    assert json.loads(one(name, "VOLUME")) == [variables(name)["FOURFOLD_CACHE"]]
    set_here = set(variables(name))
    assert {text for text in set_here if text.startswith("FOURFOLD_")} <= variables_read()
    assert set_here - variables_read() <= OF_OTHERS


@pytest.mark.parametrize("name", DOCKERFILES)
def test_health_is_asked_by_a_program_that_can_say_no(name: str, live: Live) -> None:
    kind, _, command = one(name, "HEALTHCHECK").partition(" CMD ")
    assert "--start-period" in kind
    program, flag, code = json.loads(command)
    assert (program, flag) == ("python", "-c") and f":{one(name, 'EXPOSE')}/ready" in code
    exec(code.replace(":8000", f":{live.port}"), {})
    with pytest.raises(OSError, match="refused"):
        exec(code.replace(":8000", ":9"), {})


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_build_gets_what_it_needs_and_no_more(name: str) -> None:
    """The ignore file is read as Docker reads it: the last line that fits decides."""
    lines = (DEPLOY / f"{name}.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    def sent(path: str) -> bool:
        taken = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            parts = path.split("/")
            fits = any(fnmatch.fnmatch("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))
            if rule.lstrip("!").startswith("**/"):
                fits = any(fnmatch.fnmatch(part, pattern) for part in parts)
            if fits:
                taken = rule.startswith("!")
        return taken

    needed = ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "fourfold/assistant", "assistant/images.py"]
    assert [path for path in needed if not sent(path)] == []
    kept = [".git/config", ".venv/bin/python", "deploy/keys.txt", "tests/tiny.py", "out/a", "ui/__pycache__/a.pyc"]
    assert [path for path in kept if sent(path)] == []
    copied = re.findall(r"--constraint (\S+)", (DEPLOY / name).read_text(encoding="utf-8"))
    assert all((ROOT / path).is_file() for path in copied)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_installs_extras_that_there_are(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (asked,) = re.findall(r"'\.\[([\w,]+)\]'", (DEPLOY / name).read_text(encoding="utf-8"))
    assert set(asked.split(",")) <= set(extras)


def test_compose_keeps_to_its_schema() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    if not program.exists():
        pytest.skip("check-jsonschema is not here; it comes with the extra `test`")
    command = [program, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker")
def test_docker_reads_the_compose_file(tmp_path: Path) -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("this docker has no compose")
    command = ["docker", "compose", "--file", DEPLOY / "compose.yaml", "--profile", "*", "config", "--quiet"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("name", ["fourfold", "fourfold-vllm"])
def test_compose_runs_the_server(name: str) -> None:
    service = COMPOSE["services"][name]
    options = serving_options(service["command"])
    dockerfile = Path(service["build"]["dockerfile"]).name
    assert (DEPLOY / service["build"]["context"]).resolve() == ROOT and dockerfile in DOCKERFILES
    assert options["host"] == "0.0.0.0" and options["engine"] == ("vllm" if "vllm" in name else "local")
    (secret,) = service["secrets"]
    assert str(options["api_key_file"]) == f"/run/secrets/{secret}"
    (volume,) = service["volumes"]
    assert volume.partition(":")[2] == variables(dockerfile)["FOURFOLD_CACHE"]
    assert service["ports"][0].endswith(f":{options['port']}")
    assert int(service["stop_grace_period"].removesuffix("s")) > 30  # what a graceful end may take


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_compose_gives_nothing_away(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "/tmp" in service["tmpfs"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
    for mount in service["volumes"]:
        source = mount.partition(":")[0]
        assert (DEPLOY / source).is_file() if source.startswith("./") else source in COMPOSE["volumes"], source
    # A password in the environment would be one for everybody who may list containers.
    assert not [key for key in service.get("environment", {}) if "PASSWORD" in key and not key.endswith("__FILE")]


def test_secrets_stay_out_of_the_repository() -> None:
    for secret in COMPOSE["secrets"].values():
        asked = subprocess.run(["git", "check-ignore", "-q", DEPLOY / secret["file"]], cwd=ROOT)
        if asked.returncode == 128:
            pytest.skip("needs a repository")
        assert asked.returncode == 0, secret


def test_liveness_and_readiness_are_routes(live: Live) -> None:
    assert [httpx.get(f"{live.url}/{path}").status_code for path in ("ready", "live")] == [200, 200]


def test_what_the_page_has_docker_run_is_understood() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (run,) = (shlex.split(line)[1:] for line in page.splitlines() if line.startswith("$ docker run"))
    place = run.index("fourfold")  # the image, whose entry point is the program
    options = serving_options(run[place + 1 :])
    mounts = dict(word.split(":")[1::-1] for before, word in itertools.pairwise(run[:place]) if before == "-v")
    assert {str(options["api_key_file"]), str(Path(options["model"]).parent)} == set(mounts)
    profiles = set(re.findall(r"--profile (\w+)", page))
    assert profiles == {profile for service in COMPOSE["services"].values() for profile in service.get("profiles", ())}
    assert all(Path(secret["file"]).name in page for secret in COMPOSE["secrets"].values())
