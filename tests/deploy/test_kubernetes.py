"""The Kubernetes example is valid, locked up, and speaks of settings, commands and a view that exist."""

import copy
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import yaml
from psycopg import sql

from audit.settings import Settings, read_settings
from db import tables
from db.engine import Database, open_database
from tests.support.claims import batch_of
from tests.support.command_lines import refusal
from tests.support.kubernetes import FOLDER, commands, containers, find, objects, wrong

CONTAINERS = [pytest.param(pod, container, id=name) for name, pod, container in containers()]
WORKERS = ("worker-cpu", "worker-gpu")
OWN = {"HOME", "REDIS_URL", "DATABASE_URL"}
"""Variables without AUDIT_ in front that the manifests may set."""


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    """What the container's process sees; secrets as words."""
    shared = dict(find("ConfigMap", "caption-audit")["data"])
    own = {one["name"]: one.get("value", shared.get(one["name"], "some-secret")) for one in container.get("env", [])}
    return shared | own


def worker(name: str) -> dict[str, Any]:
    template = find("Deployment", name)["spec"]["template"]["spec"]
    return {"pod": template, **template["containers"][0]}


def query() -> str:
    trigger = find("ScaledObject", "worker-gpu")["spec"]["triggers"][0]
    return str(trigger["metadata"]["query"])


@pytest.mark.parametrize("manifest", objects(), ids=lambda one: f"{one['kind']}/{one['metadata'].get('name', '')}")
def test_every_object_is_what_the_schemas_want(manifest: dict[str, Any]) -> None:
    """The API server drops a field that it does not know; a limit that is misspelt is no limit."""
    assert wrong(manifest) is None


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "worker-cpu", ("spec", "template", "spec", "terminationGracePeriod"), 90),
        ("Deployment", "worker-cpu", ("spec", "template", "spec", "enableServiceLinks"), "no"),
        ("Job", "migrate", ("spec", "podFailurePolicy", "rule"), []),
        ("PodDisruptionBudget", "worker", ("spec", "maxUnavailabel"), 1),
        ("NetworkPolicy", "flower", ("spec", "policyTypes"), "Ingress"),
        ("ScaledObject", "worker-gpu", ("spec", "pollInterval"), 15),
        ("ScaledObject", "worker-gpu", ("spec", "pollingInterval"), "15"),
        ("ScaledObject", "worker-gpu", ("spec", "triggers", 0, "metadata", "targetQueryValue"), 300),
        ("TriggerAuthentication", "ledger-queue", ("spec", "secretTargetRef", 0, "secret"), "x"),
    ],
)
def test_a_misspelt_field_is_noticed(kind: str, name: str, path: tuple[Any, ...], value: object) -> None:
    """The test above stands on this one."""
    broken = copy.deepcopy(find(kind, name))
    inner = broken
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    assert wrong(broken) is not None


@pytest.mark.parametrize("folder", ["cpu", "gpu", "keda"])
def test_kustomize_puts_them_together(folder: str) -> None:
    """`kubectl apply -k` is what the guide says."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    built = subprocess.run([kubectl, "kustomize", str(FOLDER / folder)], capture_output=True, text=True, check=True)
    made = list(yaml.safe_load_all(built.stdout))
    assert [told for one in made if (told := wrong(one))] == []
    kinds = [one["kind"] for one in made]
    assert ("ScaledObject" in kinds) if folder == "keda" else (kinds.count("Deployment") == 2)
    assert "Secret" not in kinds


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_pods_are_locked_up(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """Pictures and models come from outside: what breaks out of a decoder finds nothing to do."""
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert "memory" in container["resources"]["limits"]
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_settings_and_commands_exist(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """A variable that nothing reads, or a command that is refused, is found here and not in a cluster at night."""
    environment = environment_of(container)
    names = {f"AUDIT_{name.upper()}" for name in Settings.model_fields} | OWN
    assert set(environment) <= names
    read_settings(environment)
    assert container["image"].partition(":")[0] == "registry.example.com/caption-audit"
    assert "command" not in container, "the image's entry point is the command"
    assert [told for arguments in commands(container, environment) if (told := refusal(arguments))] == []


def test_the_image_has_what_the_pods_take_for_granted() -> None:
    """`args` alone are given, so the image adds the command's name; and its user is the one who owns the volumes."""
    image = (FOLDER.parents[1] / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["caption-audit"]' in image
    assert "AUDIT_HOME=/var/lib/caption-audit" in image
    users = {
        pod["securityContext"][key] for _, pod, _ in containers() for key in ("runAsUser", "runAsGroup", "fsGroup")
    }
    assert [f"USER {user}:{user}\n" in image for user in users] == [True]


def test_the_template_holds_no_secret() -> None:
    """Whoever applies it as it is has no password, not a known one; and it has every key that is asked for."""
    given = find("Secret", "caption-audit")["stringData"]
    assert set(given.values()) == {""}
    asked = [
        one["valueFrom"]["secretKeyRef"]
        for _, _, box in containers()
        for one in box["env"]
        if "valueFrom" in one and "secretKeyRef" in one["valueFrom"]
    ]
    asked += find("TriggerAuthentication", "ledger-queue")["spec"]["secretTargetRef"]
    assert {(one["name"], one["key"]) for one in asked} == {("caption-audit", key) for key in given}


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_the_time_it_needs(name: str) -> None:
    """To start: the ledger, then the model. To stop: the pair at hand and a commit. A probe: to start a Python."""
    made = worker(name)
    settings = read_settings(environment_of(made))
    startup = made["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= settings.start_wait_s + settings.canary_limit_s
    assert made["pod"]["terminationGracePeriodSeconds"] > settings.stop_grace_s + settings.pair_limit_s
    assert all(made[probe]["timeoutSeconds"] >= 5 for probe in ("startupProbe", "readinessProbe", "livenessProbe"))
    mounts = {mount["name"]: mount for mount in made["volumeMounts"]}
    assert mounts["models"]["readOnly"]
    assert mounts["pictures"]["readOnly"]
    assert mounts["models"]["mountPath"] == f"{mounts['home']['mountPath']}/models"


def test_the_workers_differ_in_their_device_alone() -> None:
    """What is mended in one is mended in the other."""
    one, other = (copy.deepcopy(worker(name)) for name in WORKERS)
    assert other["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert environment_of(other)["AUDIT_SLOTS_PER_DEVICE"] == "2"
    for made in (one, other):
        for key in ("image", "resources", "env"):
            made.pop(key), made["pod"]["containers"][0].pop(key)
        made["pod"].pop("tolerations", None)
    assert one == other


def test_disruption_budget_and_service_find_their_pods() -> None:
    """A selector that selects nothing is accepted by every API server."""
    labels = {name: find("Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in (*WORKERS, "flower")}
    budget = find("PodDisruptionBudget", "worker")["spec"]["selector"]["matchLabels"]
    assert [name for name, has in labels.items() if budget.items() <= has.items()] == list(WORKERS)
    service = find("Service", "flower")["spec"]
    assert service["type"] == "ClusterIP"
    assert [name for name, has in labels.items() if service["selector"].items() <= has.items()] == ["flower"]
    for name in (*WORKERS, "flower"):
        assert find("Deployment", name)["spec"]["selector"]["matchLabels"].items() <= labels[name].items()


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_shows_its_metrics_where_it_says_so(name: str) -> None:
    """An annotation, a port and a policy name the same number, which is the setting's default; and it listens there."""
    made = find("Deployment", name)["spec"]["template"]
    port = read_settings(environment_of(worker(name))).http_port
    assert made["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    assert [one["containerPort"] for one in worker(name)["ports"]] == [port]
    assert environment_of(worker(name))["AUDIT_HTTP_ADDRESS"] == "0.0.0.0"  # noqa: S104 - the policy says who may ask
    policy = find("NetworkPolicy", "metrics")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= made["metadata"]["labels"].items()
    assert policy["ingress"][0]["ports"] == [{"port": port, "protocol": "TCP"}]


def test_the_scaler_asks_for_the_model_that_workers_judge_with() -> None:
    """With another name it would find an empty queue, and no worker would ever start."""
    assert f"'{find('ConfigMap', 'caption-audit')['data']['AUDIT_MODEL']}'" in query()
    assert query() in " ".join((FOLDER.parents[1] / "docs" / "kubernetes.md").read_text().split())
    target = find("ScaledObject", "worker-gpu")["spec"]["scaleTargetRef"]["name"]
    assert find("Deployment", target)


def test_the_scaler_reads_the_age_of_the_queue_and_nothing_else(postgres_url: str) -> None:
    """The very statement of the manifest, as a role that may read the view alone, on a migrated ledger."""
    model = find("ConfigMap", "caption-audit")["data"]["AUDIT_MODEL"]
    with reader(postgres_url) as connection, opened(postgres_url) as database:
        assert ask(connection) == 0.0
        batch = batch_of(database, 3)
        older = tables.batches.update().values(model=model, opened_at=tables.batches.c.created_at - 900)
        database.transact(lambda made: made.execute(older.where(tables.batches.c.id == batch)))
        assert 900 <= ask(connection) < 2000
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT caption FROM pairs")


def ask(connection: "psycopg.Connection[tuple[Any, ...]]") -> float:
    """What KEDA makes of it: one row with one number."""
    ((age,),) = connection.execute(sql.SQL(query())).fetchall()
    return float(age)


@contextmanager
def reader(url: str) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
    """A connection as a role with the rights that the guide gives to KEDA's."""
    role = sql.Identifier(f"keda_{uuid4().hex[:12]}")
    with psycopg.connect(url, autocommit=True) as owner, psycopg.connect(url, autocommit=True) as connection:
        owner.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
        try:
            owner.execute(sql.SQL("GRANT SELECT ON queue TO {}").format(role))
            connection.execute(sql.SQL("SET ROLE {}").format(role))
            yield connection
        finally:
            connection.close()
            owner.execute(sql.SQL("DROP OWNED BY {}").format(role))
            owner.execute(sql.SQL("DROP ROLE {}").format(role))


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """The ledger."""
    database = open_database(Settings.model_validate({"database_url": url}).ledger_url)
    try:
        yield database
    finally:
        database.close()
