"""A wrong model directory is refused, by file and reason, before any pair is claimed."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from audit.errors import ModelRefused
from tests.worker.engines.tiny_ofa import Edit, edit_json
from worker.engines.model_files import check_unchanged, inspect_model, write_checksums

USED = ("configuration.json", "config.json", "vocab.json", "merges.txt", "ans2label.json", "model.safetensors")


def refusal(directory: Path) -> str:
    with pytest.raises(ModelRefused) as refused:
        inspect_model(directory)
    return refused.value.detail


def test_a_good_directory_is_described(pristine: Path) -> None:
    """Everything that the ledger, the log and the loader need is known without torch."""
    files = inspect_model(pristine, name="tiny")
    vocabulary = json.loads((pristine / "vocab.json").read_text())
    assert files.name == "tiny"
    assert files.spec.label_ids == tuple(vocabulary[f"\u0120{answer}"] for answer in ("yes", "no", "maybe"))
    assert files.sha256 == {name: hashlib.sha256((pristine / name).read_bytes()).hexdigest() for name in USED}
    assert (files.spec.max_src_length, files.spec.patch_image_size) == (80, 64)


def test_the_parent_process_needs_no_torch(pristine: Path) -> None:
    """A parent that has torch's threads or CUDA cannot fork workers: they would hang."""
    program = (
        "import sys; from pathlib import Path; from worker.engines.model_files import inspect_model; "
        "from worker.engines import stub, canary; inspect_model(Path(sys.argv[1])); "
        "print([name for name in ('torch', 'numpy', 'transformers', 'modelscope') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, pristine], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", USED)
def test_a_missing_file_is_named(model_dir: Path, name: str) -> None:
    """Half a copy is the most common wrong directory."""
    (model_dir / name).unlink()
    assert str(model_dir / name) in refusal(model_dir) or f"neither {name}" in refusal(model_dir)


@pytest.mark.parametrize("left", [0, 5, 1000, -1], ids=["empty", "no header", "half a header", "one byte short"])
def test_truncated_weights_are_refused(model_dir: Path, left: int) -> None:
    """A download that broke off must not become random answers, or a crash of every worker process."""
    path = model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    assert refusal(model_dir).startswith(f"{path}: ")
    assert "truncated" in refusal(model_dir)


def test_a_weights_header_that_lies_is_refused(model_dir: Path) -> None:
    """Offsets that do not fit the shapes would let the loader read other tensors' bytes."""
    path = model_dir / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(b"[64]", b"[63]", 1)
    path.write_bytes(content[:8] + header + content[8 + length :])
    assert "makes no sense" in refusal(model_dir)


def test_a_truncated_bin_file_is_refused(model_dir: Path) -> None:
    """The other format of weights, pickled by torch, is cut off as easily."""
    state = load_file(model_dir / "model.safetensors")
    (model_dir / "model.safetensors").unlink()
    path = model_dir / "pytorch_model.bin"
    torch.save(state, path)
    assert inspect_model(model_dir).weights.name == path.name
    path.write_bytes(path.read_bytes()[:-1000])
    assert refusal(model_dir).startswith(f"{path}: it is no whole torch archive")


def test_split_weights_are_refused_with_the_reason(model_dir: Path) -> None:
    """Taking the first part for the whole would leave the rest random."""
    (model_dir / "model.safetensors").rename(model_dir / "model-00001-of-00002.safetensors")
    (model_dir / "model.safetensors.index.json").write_text("{}")
    assert "split in several files" in refusal(model_dir)


def model_section(**changes: object) -> Edit:
    return lambda configuration: configuration["model"].update(changes)


REFUSED: dict[str, tuple[str, Edit, str]] = {
    "another task": ("configuration.json", lambda c: c.update(task="image-captioning"), "task is 'image-captioning'"),
    "no model section": ("configuration.json", lambda c: c.pop("model"), "no `model` section"),
    "another model": ("configuration.json", model_section(type="mplug"), "model.type is 'mplug'"),
    "another language": ("configuration.json", model_section(language="zh"), "model.language is 'zh'"),
    "another gen_type": ("configuration.json", model_section(gen_type="beam"), "model.gen_type is 'beam'"),
    "prompt_type none": ("configuration.json", model_section(prompt_type="none"), "model.prompt_type is 'none'"),
    "no prompt_type": ("configuration.json", lambda c: c["model"].pop("prompt_type"), "model.prompt_type is 'none'"),
    "prompt_type src": ("configuration.json", model_section(prompt_type="src"), "model.prompt_type is 'src'"),
    "a prompt without a place": ("configuration.json", model_section(prompt="is it so?"), "model.prompt must hold"),
    "a prompt with two places": ("configuration.json", model_section(prompt="{} {}"), "model.prompt must hold"),
    "a label file elsewhere": ("configuration.json", model_section(answer2label="../x.json"), "model.answer2label"),
    "a size of text": ("configuration.json", model_section(patch_image_size="480"), "patch_image_size is '480'"),
    "too large pictures": ("configuration.json", model_section(patch_image_size=480), "image_bucket_size is too small"),
    "too long texts": ("configuration.json", model_section(max_src_length=500), "max_position_embeddings is too small"),
    "another architecture": ("config.json", lambda c: c.update(model_type="bart"), "model_type is 'bart'"),
    "ofasys": ("config.json", lambda c: c.update(use_ofasys=True), "use_ofasys"),
    "an unknown ResNet": ("config.json", lambda c: c.update(resnet_type="vit"), "resnet_type is 'vit'"),
    "no layers": ("config.json", lambda c: c.update(encoder_layers=0), "encoder_layers is 0"),
    "too many layers": ("config.json", lambda c: c.update(decoder_layers=10**9), "decoder_layers is 1000000000"),
    "other special ids": ("config.json", lambda c: c.update(pad_token_id=7), "pad_token_id"),
    "another vocabulary's size": ("config.json", lambda c: c.update(vocab_size=59_457), "vocab_size is 59457"),
    "a wider embedding": ("config.json", lambda c: c.update(d_model=128), "(64)"),
    "a word too many": ("vocab.json", lambda v: v.update(surplus=len(v)), "vocab_size is"),
    "other labels": ("ans2label.json", lambda a: a.update(perhaps=a.pop("maybe")), "the labels are no, perhaps, yes"),
    "a fourth label": ("ans2label.json", lambda a: a.update(perhaps=3), "wanted are yes, no and maybe"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_engine_does_not_know_is_refused(model_dir: Path, case: str) -> None:
    """Each of these would answer something, and nobody would notice that it means nothing."""
    name, edit, reason = REFUSED[case]
    edit_json(model_dir / name, edit)
    detail = refusal(model_dir)
    assert str(model_dir) in detail
    assert reason.strip("()") in detail


def test_labels_of_several_tokens_are_refused(model_dir: Path) -> None:
    """The engine reads one position: a label of two tokens would be scored by its first alone."""
    path = model_dir / "merges.txt"
    lines = path.read_text(encoding="utf-8").split("\n")
    kept = [line for line in lines if "".join(line.split()) not in ("\u0120maybe", "maybe")]
    path.write_text("\n".join(kept), encoding="utf-8")
    assert "'maybe' is no single token" in refusal(model_dir)


@pytest.mark.parametrize("name", ["configuration.json", "config.json", "vocab.json", "ans2label.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 200_000, '{"a": "' + "x" * 30_000_000 + '"}'])
def test_absurd_json_is_refused(model_dir: Path, name: str, content: str) -> None:
    """A hostile file must not take the parent down, by depth or by size."""
    (model_dir / name).write_text(content)
    assert str(model_dir / name) in refusal(model_dir)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_out(path: Path) -> None:
    other = path.parent.parent / "elsewhere"
    path.rename(other)
    path.symlink_to(other)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(_pipe, "not a regular file"), (_link_out, "a link that leads out"), (_folder, "not a regular file")],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_only_regular_files_inside_are_read(
    model_dir: Path, name: str, spoil: Callable[[Path], None], reason: str
) -> None:
    """A pipe would hang the parent for ever; a link could name any file of the machine."""
    spoil(model_dir / name)
    assert reason in refusal(model_dir)


def test_a_link_inside_the_directory_is_fine(model_dir: Path) -> None:
    """Hub caches link names to blobs."""
    (model_dir / "model.safetensors").rename(model_dir / "blob")
    (model_dir / "model.safetensors").symlink_to("blob")
    assert inspect_model(model_dir).weights.name == "model.safetensors"


def test_checksums_may_be_written_for_a_relative_directory(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """People name the folder that they stand beside."""
    monkeypatch.chdir(model_dir.parent)
    write_checksums(Path(model_dir.name))
    assert inspect_model(model_dir).revision


def test_checksums_are_those_of_sha256sum(model_dir: Path) -> None:
    """Operators check and write them with the tool that they know."""
    write_checksums(model_dir)
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=model_dir, check=True)
    assert inspect_model(model_dir).revision == inspect_model(model_dir).revision


@pytest.mark.parametrize("name", USED)
def test_a_changed_byte_is_found_by_the_checksums(model_dir: Path, name: str) -> None:
    """One flipped bit in 2 GB still loads and still answers."""
    write_checksums(model_dir)
    path = model_dir / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert refusal(model_dir) == f"{path}: its sha256 is not the one in SHA256SUMS"


def test_a_file_that_the_checksums_miss_or_list_in_vain_is_refused(model_dir: Path) -> None:
    """Weights dropped beside the listed ones would win unchecked; a listed file that is gone is half a copy."""
    (model_dir / "README.md").write_text("about")
    write_checksums(model_dir)
    (model_dir / "README.md").unlink()
    assert refusal(model_dir) == f"{model_dir / 'README.md'}: missing"
    lines = (model_dir / "SHA256SUMS").read_text().splitlines()
    kept = [line for line in lines if not line.endswith(("README.md", "model.safetensors"))]
    (model_dir / "SHA256SUMS").write_text("\n".join(kept))
    assert refusal(model_dir) == f"{model_dir / 'model.safetensors'}: SHA256SUMS does not list it"
    (model_dir / "SHA256SUMS").write_text(f"{'0' * 64}  ../elsewhere\n")
    assert "not a line of sha256sum" in refusal(model_dir)


def test_the_revision_changes_with_every_used_file(model_dir: Path) -> None:
    """Verdicts of two different models must never share a cache key."""
    before = inspect_model(model_dir).revision
    edit_json(model_dir / "configuration.json", lambda configuration: configuration.update(note="a new file"))
    assert inspect_model(model_dir).revision != before


def test_a_file_replaced_after_the_check_is_noticed(model_dir: Path) -> None:
    """The parent hashes once; a child must not load something else an hour later."""
    files = inspect_model(model_dir)
    check_unchanged(files)
    copy = model_dir / "copy"
    copy.write_bytes((model_dir / "model.safetensors").read_bytes())
    copy.rename(model_dir / "model.safetensors")
    with pytest.raises(ModelRefused, match="has changed"):
        check_unchanged(files)


def test_the_command_writes_and_shows(model_dir: Path) -> None:
    """`python -m worker.engines.model_files DIR --write` is how a model's checksums are made."""
    command = [sys.executable, "-m", "worker.engines.model_files", str(model_dir)]
    done = subprocess.run([*command, "--write"], capture_output=True, text=True, check=True)
    assert done.stdout == f"model: revision {inspect_model(model_dir).revision}, 7 files\n"
    (model_dir / "vocab.json").write_text("{}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "vocab.json" in done.stderr
