"""The table of settings in the README, made from the settings themselves.

`python -m ops.settings_table` prints it; with `--check README.md` it compares the part between the two markers, and
with `--write README.md` it replaces that part.
"""

import argparse
import sys
from pathlib import Path

from audit.healing_settings import HealingSettings
from audit.settings import Settings
from audit.telemetry_settings import TelemetrySettings

BEGIN, END = "<!-- settings -->", "<!-- /settings -->"


def table() -> str:
    """Markdown: one line a setting, in the order of the code."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    inherited = {**HealingSettings.model_fields, **TelemetrySettings.model_fields}
    for name, field in sorted(Settings.model_fields.items(), key=lambda entry: entry[0] in inherited):
        variable = name.upper() if name in ("database_url", "redis_url") else f"AUDIT_{name.upper()}"
        lines.append(f"| `{variable}` | {_default(field.default)} | {_cell(field.description or '')} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line; returns 1 when a checked file differs or has no markers."""
    parser = argparse.ArgumentParser(prog="python -m ops.settings_table", description=__doc__)
    parser.add_argument("--check", metavar="FILE", type=Path, nargs="+", default=[])
    parser.add_argument("--write", metavar="FILE", type=Path, nargs="+", default=[])
    chosen = parser.parse_args(arguments)
    if not chosen.check and not chosen.write:
        print(table())
    problems = [_update(file, write=True) for file in chosen.write] + [_update(file) for file in chosen.check]
    for problem in filter(None, problems):
        print(problem, file=sys.stderr)
    return int(any(problems))


def _update(file: Path, *, write: bool = False) -> str | None:
    """Compare, or replace, the table in one file; returns what is wrong."""
    text = file.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return f"{file}: the markers {BEGIN} and {END} are missing"
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if write:
        file.write_text(wanted, encoding="utf-8")
    elif wanted != text:
        return f"{file}: its settings are not those of the code: python -m ops.settings_table --write {file}"
    return None


def _default(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
