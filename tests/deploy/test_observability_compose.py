"""The compose profile `observability`: as locked up as the rest, and wired to what the files say."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.settings import read_settings
from tests.support.command_lines import ROOT
from tests.support.observability import FOLDER

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROFILE = {name: service for name, service in SERVICES.items() if service.get("profiles") == ["observability"]}
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def test_the_profile_adds_four_services_and_nobody_needs_them() -> None:
    """Whoever does not ask for them gets none of them."""
    assert set(PROFILE) == {"prometheus", "alertmanager", "grafana", "jaeger"}
    for name, service in SERVICES.items():
        assert not set(PROFILE) & set(service.get("depends_on", {})), name
    # Compose fills in the whole file before it looks at profiles.
    assert not re.search(r"(?<!\$)\$\{\w+:\?", yaml.safe_dump(PROFILE))


@pytest.mark.parametrize("name", sorted(PROFILE))
def test_a_service_is_locked_up(name: str) -> None:
    """They are strangers' programs beside our data, and one of them draws pages."""
    service = PROFILE[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory", "pids"} == set(service["deploy"]["resources"]["limits"])
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"]), "a tag that stays what it is"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["restart"] != "no"


@pytest.mark.parametrize("name", sorted(PROFILE))
def test_what_a_service_mounts_is_there(name: str) -> None:
    """Docker makes an empty folder of a file that is missing, and the program does not start."""
    for volume in PROFILE[name].get("volumes", []):
        source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), volume
            assert volume.endswith(":ro"), volume
        else:
            assert source in COMPOSE["volumes"], volume


def test_prometheus_finds_every_worker() -> None:
    """The port is the default of the worker's own setting, on a network that both are on; and it is not published."""
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert (found["names"], found["type"], found["port"]) == (["worker"], "A", read_settings({}).http_port)
    worker = SERVICES["worker"]
    assert worker["environment"]["AUDIT_HTTP_ADDRESS"] == "0.0.0.0"  # noqa: S104 - inside its network
    assert "AUDIT_HTTP_PORT" not in worker["environment"]
    assert "ports" not in worker
    assert set(worker["networks"]) & set(PROFILE["prometheus"]["networks"]) == {"backend"}
    assert COMPOSE["networks"]["backend"]["internal"]


def test_spans_are_sent_when_asked_for_alone() -> None:
    """Without the profile there is nobody to take them."""
    assert SERVICES["worker"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "${OTEL_EXPORTER_OTLP_ENDPOINT:-}"
    assert "\n#OTEL_EXPORTER_OTLP_ENDPOINT=http://jaeger:4318\n" in ENV_EXAMPLE
    assert "backend" in PROFILE["jaeger"]["networks"]


def test_services_call_each_other_by_their_names() -> None:
    """Prometheus Alertmanager, Grafana Prometheus; by the ports that these listen on, on a network that both are on."""
    told = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    assert told["alerting"]["alertmanagers"][0]["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    sources = FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(sources.read_text(encoding="utf-8"))["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert all("frontend" in PROFILE[name]["networks"] for name in ("prometheus", "alertmanager", "grafana"))


def test_secrets_come_from_the_env_file_and_reach_alertmanager_as_files() -> None:
    """As arguments they would stand in every list of processes, and a default password would be everybody's."""
    for name in ("GRAFANA_ADMIN_PASSWORD", "ALERT_MAIL_PASSWORD", "ALERT_WEBHOOK_TOKEN"):
        assert f"\n{name}=\n" in ENV_EXAMPLE
    assert "${GF_SECURITY_ADMIN_PASSWORD:?" in PROFILE["grafana"]["entrypoint"][-1].replace("$$", "$")
    script = PROFILE["alertmanager"]["entrypoint"][-1]
    asked = set(re.findall(r"/run/alertmanager/[\w-]+", (FOLDER / "alertmanager.yml").read_text(encoding="utf-8")))
    assert asked == set(re.findall(r"/run/alertmanager/[\w-]+", script))
    assert "umask 077" in script


def test_every_variable_of_the_profile_is_explained() -> None:
    """What can be set stands in .env.example, with what it is when it is not."""
    for name in set(re.findall(r"(?<!\$)\$\{(\w+)", yaml.safe_dump(PROFILE))):
        assert re.search(rf"^#?{name}=", ENV_EXAMPLE, re.MULTILINE), name


def test_grafana_starts_with_the_dashboard() -> None:
    """The path that it is told is the one that is mounted."""
    grafana = PROFILE["grafana"]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert f"./deploy/observability/grafana/dashboards:{home.parent}:ro" in grafana["volumes"]
    assert (FOLDER / "grafana" / "dashboards" / home.name).is_file()


def test_alertmanager_reads_its_secrets_and_has_them_nowhere_else(tmp_path: Path) -> None:
    """The very script of the file, with a program in Alertmanager's place that tells what it was given."""
    program = tmp_path / "alertmanager"
    program.write_text('#!/bin/sh\necho "$@"\nenv\n')
    program.chmod(0o755)
    script = started("alertmanager").replace("/run/alertmanager", str(tmp_path))
    secrets = {"ALERT_MAIL_PASSWORD": "a $b 'c", "ALERT_WEBHOOK_TOKEN": "t%s"}
    done = shell(script, **secrets, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    assert "--config.file=/etc/alertmanager/alertmanager.yml" in done.stdout
    assert not any(secret in done.stdout for secret in secrets.values())
    for name, secret in (("mail-password", "a $b 'c"), ("webhook-token", "t%s")):
        written = tmp_path / name
        assert (written.read_text(), written.stat().st_mode & 0o777) == (secret, 0o600)


def test_grafana_does_not_start_without_a_password() -> None:
    """An empty variable would mean its default, admin, on a port of this host."""
    script = started("grafana").replace("/run.sh", "echo started")
    refused = shell(script, GF_SECURITY_ADMIN_PASSWORD="")
    assert refused.returncode != 0
    assert "GRAFANA_ADMIN_PASSWORD" in refused.stderr
    assert shell(script, GF_SECURITY_ADMIN_PASSWORD="long enough").stdout == "started\n"


def started(name: str) -> str:
    """The script that the service is started with, as its shell gets it."""
    script: str = PROFILE[name]["entrypoint"][-1]
    return script.replace("$$", "$")


def shell(script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    environ = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(["sh", "-euc", script], env=environ, capture_output=True, text=True, check=False)
