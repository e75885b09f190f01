"""The model in the box: small, checked, and as good as its card says."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from demo.evaluate import MODEL, TRIALS, ask, write_figures
from demo.judge import Judge
from demo.samples import write_samples
from worker.engines.model_files import inspect_model
from worker.engines.ofa_spec import ADDED_TOKENS

MAX_BYTES = 16_000_000


@pytest.fixture(scope="module")
def judge() -> Judge:
    """The shipped model, loaded once."""
    return Judge(MODEL)


def test_the_folder_is_small_and_its_checksums_hold() -> None:
    """It lies in the repository: every clone pays for it."""
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < MAX_BYTES
    files = inspect_model(MODEL)
    assert "model.safetensors" in files.sha256
    assert {answer.label.value for answer in files.known_answers} == {"Yes", "No", "Maybe"}


def test_the_folder_is_what_modelscope_expects() -> None:
    """The same folder must load in modelscope's own pipeline."""
    names = {path.name for path in MODEL.iterdir()}
    assert names >= {"configuration.json", "config.json", "vocab.json", "merges.txt", "ans2label.json", "README.md"}
    vocabulary = json.loads((MODEL / "vocab.json").read_text(encoding="utf-8"))
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == len(vocabulary) + ADDED_TOKENS
    assert not [path.suffix for path in MODEL.iterdir() if path.suffix == ".py"]


def test_samples_get_their_known_labels(judge: Judge, tmp_path: Path) -> None:
    """What `caption-audit demo` shows must be right, or it shows nothing."""
    sheet = write_samples(tmp_path, count=60)
    with sheet.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["known_label"]]
    questions = [(Image.open(tmp_path / row["image"]), row["caption"], None) for row in rows]
    right = [
        answer == row["known_label"].lower() for row, (answer, _) in zip(rows, judge.answers(questions), strict=True)
    ]
    assert len(right) == 60
    assert sum(right) / len(right) >= 0.9


def test_every_trial_of_the_evaluation_runs(judge: Judge) -> None:
    """The tables of the model card can be made again from the folder, and the model does look at the picture."""
    answers = {trial.name: ask(judge, trial, share=0.005) for trial in TRIALS}
    figures = write_figures(answers)
    assert all(f"| {trial.name} |" in figures for trial in TRIALS)
    blank = answers["blank pictures"]
    assert sum(one.answer == one.label for one in blank) <= 0.6 * len(blank)
