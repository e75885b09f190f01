"""Importing modelscope changes nothing else, and nothing of a model directory is ever run."""

import json
import subprocess
import sys
from pathlib import Path

from tests.worker.engines.tiny_ofa import edit_json

IMPORTS = """
import sys
from PIL import Image, ImageFile
Image.MAX_IMAGE_PIXELS = 12345
finders = list(sys.meta_path)
from worker.engines.ofa_imports import import_ofa
import_ofa()
import_ofa()
import os
assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == (12345, False)
assert sys.meta_path == finders
assert not [name for name in sys.modules if name.startswith("fairseq")]
assert os.environ["PIP_NO_INDEX"] == os.environ["HF_HUB_OFFLINE"] == "1"
"""

TRIPWIRE = """
import json, sys
from pathlib import Path
directory = Path(sys.argv[1])
from worker.engines.base import Question
from worker.engines.canary import prove
from worker.engines.model_files import inspect_model
from worker.engines.ofa import load_ofa
from worker.engines.ofa_imports import import_ofa
import_ofa()
seen = []

def watch(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect"):
        seen.append([event, str(arguments)])
    if event == "open" and str(arguments[0]).startswith(str(directory)):
        seen.append([event, Path(arguments[0]).name])

sys.addaudithook(watch)
engine = load_ofa(inspect_model(directory), device="cpu", precision="fp32")
engine.judge([Question(image=engine.prepare(__import__("PIL.Image").Image.new("RGB", (9, 9))), caption="a dog")])
assert "tripwire" not in sys.modules
print(json.dumps(sorted(map(list, {tuple(event) for event in seen}))))
"""


def test_the_import_leaves_the_process_as_it_was() -> None:
    """Pillow's limits protect the worker from decompression bombs; a stand-in for fairseq would fool others."""
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)


def test_nothing_in_a_model_directory_is_run(model_dir: Path, tmp_path: Path) -> None:
    """The pipeline imports code and pip-installs plugins of directories it trusts, by a folder called `iic`."""
    trusted = tmp_path / "iic" / "ofa_visual-entailment_snli-ve_large_en"
    trusted.parent.mkdir()
    model_dir.rename(trusted)
    marker = tmp_path / "tripped"
    for name in ("tripwire.py", "ms_wrapper.py", "__init__.py", "setup.py"):
        (trusted / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
    (trusted / "requirements.txt").write_text("tripwire-package\n")
    edit_json(
        trusted / "configuration.json",
        lambda c: c.update(plugins=["tripwire"], allow_remote=True, trust_remote_code=True),
    )
    remote = {"auto_map": {"AutoModel": "tripwire.Model"}, "resnet_model_path": str(trusted / "tripwire.py")}
    edit_json(trusted / "config.json", lambda config: config.update(remote))
    edit_json(trusted / "tokenizer_config.json", lambda config: config.update(auto_map={"AutoTokenizer": "tripwire.T"}))
    done = subprocess.run([sys.executable, "-c", TRIPWIRE, trusted], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    used = ("ans2label.json", "config.json", "configuration.json", "merges.txt", "model.safetensors", "vocab.json")
    assert json.loads(done.stdout) == [["open", name] for name in used]
    assert not marker.exists()
