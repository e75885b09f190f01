"""Real processes for tests that kill them."""

import os
import subprocess
import sys
from pathlib import Path

from pydantic import SecretStr

from audit.settings import Settings

ROOT = Path(__file__).resolve().parent.parent.parent


def environment(settings: Settings) -> dict[str, str]:
    """The variables from which another process reads the same settings."""
    told = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is None:
            continue
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        told[name.upper() if name in ("database_url", "redis_url") else f"AUDIT_{name.upper()}"] = text
    return told


def python(code: str, *arguments: str, settings: Settings) -> subprocess.Popen[str]:
    """Start Python with these settings in its environment."""
    command = [sys.executable, "-c", code, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(settings), cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
