"""The Kubernetes example as objects, and a verdict on each against the published schemas."""

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from pydantic import ValidationError

from tests.support.command_lines import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.32"
"""Schemas of this version: old enough for clusters in use; what it takes, newer ones take."""


def objects() -> list[dict[str, Any]]:
    """Every object of every file, kustomizations left out."""
    files = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.name != "kustomization.yaml"]
    return [one for path in files for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def find(kind: str, name: str) -> dict[str, Any]:
    """The one object of that kind and name."""
    (found,) = [one for one in objects() if one["kind"] == kind and one["metadata"].get("name") == name]
    return found


def wrong(manifest: dict[str, Any]) -> str | None:
    """What the schema says against it, unknown fields included; None when nothing."""
    if manifest["apiVersion"].startswith("keda.sh/"):
        return _wrong_for_keda(manifest)
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"{manifest['kind']}: {getattr(error, 'message', '') or error!r}"
    return None


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod and container of everything that runs."""
    for one in objects():
        pod = one.get("spec", {}).get("template", {}).get("spec")
        for container in (pod or {}).get("containers", []):
            yield f"{one['kind']}/{container['name']}", pod, container


def commands(container: dict[str, Any], environment: dict[str, str]) -> Iterator[list[str]]:
    """Arguments of caption-audit: of the container itself, and of the probes that call it."""
    yield [_expanded(word, environment) for word in container["args"]]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container.get(name, {}).get("exec", {}).get("command")
        if probe:
            assert probe[0] == "caption-audit"
            yield probe[1:]


def _expanded(word: str, environment: dict[str, str]) -> str:
    return environment[word[2:-1]] if word.startswith("$(") else word


def _wrong_for_keda(manifest: dict[str, Any]) -> str | None:
    """The models drop what they do not know, so what does not come back was unknown."""
    try:
        known = getattr(keda, manifest["kind"]).model_validate(manifest, strict=True)
    except ValidationError as error:
        return f"{manifest['kind']}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
    back = known.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return None if back == manifest else f"{manifest['kind']}: unknown fields in {manifest!r}, known are {back!r}"
