"""Flower as it is seen from this host."""

import base64
import json
import urllib.error
import urllib.request

from tests.compose.project import Failed, Project, wait_until


def check_flower(project: Project) -> None:
    """It answers on 127.0.0.1: 401 without the password or with another, and with it names the worker."""
    url = f"http://127.0.0.1:{project.values['FLOWER_PORT']}"
    user, password = project.values["AUDIT_FLOWER_USER"], project.values["AUDIT_FLOWER_PASSWORD"]
    wait_until(lambda: _ask(url)[0] != 0, limit_s=120, what="Flower to answer")
    for path in ("/", "/api/workers", "/metrics"):
        for login in (None, (user, "wrong")):
            status, _ = _ask(url + path, login)
            if status != 401:
                raise Failed(f"Flower answers {status} for {path} {'with a wrong' if login else 'without a'} password")
    known = wait_until(lambda: _workers(url, (user, password)), limit_s=120, what="Flower to know a worker")
    asked = project.inside("flower", "caption-audit", "health", "--probe", "flower")
    if asked.returncode:
        raise Failed(f"Flower's health check ended with {asked.returncode}: {asked.stdout}")
    project.say(f"Flower: 401 without the password, and with it knows {', '.join(known)}")


def _workers(url: str, login: tuple[str, str]) -> list[str]:
    status, body = _ask(f"{url}/api/workers?status=1", login)
    if status != 200:
        raise Failed(f"Flower answers {status} with the password: {body[:200]!r}")
    return sorted(name for name, alive in json.loads(body).items() if alive)


def _ask(url: str, login: tuple[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body; status 0 while nobody answers."""
    request = urllib.request.Request(url)  # noqa: S310 - ours
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
    try:
        # A proxy that the environment names does not know this host's 127.0.0.1.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""
