"""The reference's own environment: what modelscope's pipelines import, kept out of the worker's."""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
DIRECTORY = HERE.parent / ".venv-parity"
REQUIREMENTS = HERE / "requirements.txt"


def build_environment() -> Path:
    """Build .venv-parity, or leave it when it is up to date; returns its Python.

    It sees this interpreter's packages, torch and modelscope among them, behind its own: 0.3 GB instead of 1.6, and
    both sides of the comparison run the very same torch.
    """
    python = DIRECTORY / "bin" / "python"
    stamp = DIRECTORY / "requirements.sha256"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.prefix.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", DIRECTORY], check=True)
    paths = sysconfig.get_paths(vars={"base": str(DIRECTORY), "platbase": str(DIRECTORY)})
    Path(paths["purelib"], "worker-environment.pth").write_text(
        f"{sysconfig.get_paths()['purelib']}\n", encoding="utf-8"
    )
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", REQUIREMENTS]
    subprocess.run(command, check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return python
