"""Commands that a person is told to type next, so that they can be pasted: this very command, and this very home."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from audit.settings import Settings
from ops.text import plain

NAME = "caption-audit"


def typed(arguments: str, settings: Settings) -> str:
    """`caption-audit ARGUMENTS` as this user can type it: as it was typed, or the bare name where PATH finds it."""
    return f"{home_prefix(settings)}{command()} {arguments}"


def typed_for(arguments: str, model: str, settings: Settings) -> str:
    """The same with this model in front, where another one is set."""
    if model == settings.model_name:
        return typed(arguments, settings)
    return f"{home_prefix(settings)}AUDIT_MODEL={plain(shlex.quote(model))} {command()} {arguments}"


def home_prefix(settings: Settings) -> str:
    """What another terminal has to put before a command to reach this home; nothing for the default one."""
    default = os.path.abspath(Settings.model_fields["home"].default)
    return "" if str(settings.home) == default else f"AUDIT_HOME={shlex.quote(str(settings.home))} "


def command() -> str:
    """The command itself; a relative path stays one. Run as a module, it is the one beside this Python."""
    called = sys.argv[0]
    script = called if os.path.basename(called) == NAME else str(Path(sys.executable).with_name(NAME))
    if not os.path.exists(script):
        return f"{shlex.quote(relative(sys.executable))} -m ops.cli"
    found = shutil.which(NAME)
    if found is not None and os.path.samefile(found, script):
        return NAME
    return shlex.quote(called if script == called else relative(script))


def relative(path: str) -> str:
    """The path from here, if it lies below."""
    shorter = os.path.relpath(path)
    return path if shorter.startswith("..") else shorter
