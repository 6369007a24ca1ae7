"""compose.yml: what can be said of it without an engine that runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ssis_exporter.config import load_config
from tests.real import need_program

ROOT = Path(__file__).parent.parent
COMPOSE = YAML(typ="safe").load(ROOT / "compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]

# Of the Compose specification, what is used here: https://github.com/compose-spec/compose-spec/blob/main/spec.md
KEYS = {
    "build": str, "image": str, "command": list, "read_only": bool, "cap_drop": list, "security_opt": list,
    "tmpfs": list, "volumes": list, "ports": list, "restart": str, "network_mode": str,
    "depends_on": list, "environment": dict,
}  # fmt: skip


def mounts(service: str) -> dict[str, str]:
    """Path in the container to what stands there: a path of this project, or the name of a volume."""
    found = {}
    for text in SERVICES[service]["volumes"]:
        source, target, *mode = text.split(":")
        assert mode in ([], ["ro"])
        found[target] = source
    return found


def laid_out(service: str, folder: Path, below: str) -> Path:
    """What the service finds below a path in its container, as a folder here."""
    for target, source in mounts(service).items():
        if source.startswith("./") and Path(target).is_relative_to(below):
            place = folder / Path(target).relative_to(below)
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
            copy(ROOT / source, place)
    return folder


def checked(*command: str) -> None:
    """Runs a checking program, which must find nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert 0 == done.returncode, done.stdout + done.stderr


def test_only_what_the_specification_knows() -> None:
    """
    Every key is one of Compose's, with a value of its kind.
    """
    assert {"name", "services", "volumes"} == set(COMPOSE)
    assert {"exporter", "alertmanager", "prometheus", "grafana"} == set(SERVICES)
    for service in SERVICES.values():
        for key, value in service.items():
            assert isinstance(value, KEYS[key]), key
        assert all(isinstance(value, str) for value in service.get("environment", {}).values())


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned(service: str) -> None:
    """
    Each image is built here or has a whole version as its tag.
    """
    image = SERVICES[service]["image"]

    assert "build" in SERVICES[service] or re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", image)


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_is_there(service: str) -> None:
    """
    Each path of this project exists and is read-only; every other volume is declared.
    """
    for text in SERVICES[service]["volumes"]:
        source = text.split(":")[0]
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert text.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]


def test_every_volume_is_used() -> None:
    """
    No volume is declared in vain.
    """
    used = {source for service in SERVICES for source in mounts(service).values() if not source.startswith("./")}

    assert set(COMPOSE["volumes"]) == used


def test_ports_are_on_loopback_and_told() -> None:
    """
    Nobody else reaches what has no password; the file's head names each port.
    """
    head = (ROOT / "compose.yml").read_text(encoding="utf-8").partition("name:")[0]
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    for port in ports:
        assert (found := re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port))
        assert f"http://127.0.0.1:{found[1]} " in head
    assert len(ports) == len(set(ports))


def test_services_refer_to_each_other() -> None:
    """
    Who shares a network or waits for another names a service; one that shares a network publishes nothing itself.
    """
    for service in SERVICES.values():
        assert set(service.get("depends_on", [])) <= SERVICES.keys()
        if "network_mode" in service:
            assert service["network_mode"].removeprefix("service:") in SERVICES
            assert "ports" not in service


def test_the_exporter_reads_its_configuration_and_stops_nothing() -> None:
    """
    The configuration is right, and a dry run on loopback.
    """
    config = load_config(ROOT / "compose" / "exporter.yml")

    assert config.stop is not None
    assert "dry-run" == config.stop.mode
    assert config.stop.address.is_loopback
    assert "--config.file=/etc/ssis_exporter/config.yml" in SERVICES["exporter"]["command"]
    assert "./compose/exporter.yml" == mounts("exporter")["/etc/ssis_exporter/config.yml"]


def test_the_parts_find_each_other() -> None:
    """
    Prometheus scrapes the exporter's port and sends to Alertmanager's, which sends to the webhook's.
    """
    yaml = YAML(typ="safe")
    prometheus = yaml.load(ROOT / "compose" / "prometheus.yml")
    alertmanager = yaml.load(ROOT / "compose" / "alertmanager.yml")
    grafana = yaml.load(ROOT / "dashboards" / "provisioning" / "datasources" / "prometheus.yml")
    config = load_config(ROOT / "compose" / "exporter.yml")
    assert config.stop is not None

    assert ["exporter:10058"] == prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    assert ["exporter:9093"] == prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert (
        f"http://{config.stop.listen_address}/webhook/alertmanager"
        == (alertmanager["receivers"][1]["webhook_configs"][0]["url"])
    )
    assert "http://prometheus:9090" == grafana["datasources"][0]["url"]
    provider = yaml.load(ROOT / "dashboards" / "provisioning" / "dashboards" / "ssis.yml")
    assert "./dashboards" == mounts("grafana")[provider["providers"][0]["options"]["path"]]


@pytest.mark.real
def test_promtool_takes_prometheus_configuration(tmp_path: Path) -> None:
    """
    The configuration and all rule files are right, laid out as in the container.
    """
    promtool = need_program("promtool", "prometheus")
    folder = laid_out("prometheus", tmp_path, "/etc/prometheus")

    assert (folder / "alerts" / "ssis.rules.yml").is_file()
    checked(promtool, "check", "config", str(folder / "prometheus.yml"))


@pytest.mark.real
def test_amtool_takes_alertmanagers_configuration() -> None:
    """
    `amtool check-config` finds nothing wrong.
    """
    amtool = need_program("amtool", "prometheus-alertmanager")

    checked(amtool, "check-config", str(ROOT / "compose" / "alertmanager.yml"))
