"""Looks that import torch: in a process of their own, which can be ended, and whose crash is a line."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping

from audit.errors import Unavailable

PROBE = "worker.engines.device_probe"


def told_by(module: str, *arguments: str, environ: Mapping[str, str], limit_s: float) -> Mapping[str, str]:
    """The last line that `python -m module` prints, which is a JSON object. Raises Unavailable."""
    command = [sys.executable, "-P", "-m", module, *arguments]
    surroundings = {**environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(
            command,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable("no_answer", f"no answer within {limit_s:.3g} s") from None
    try:
        told: Mapping[str, str] = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        why = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        raise Unavailable("no_answer", why) from None
    return told
