"""What a hub lists is a stranger's text: whatever it says, plain files with harmless names are all that is taken."""

import fnmatch
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import Permanent
from audit.models import NEEDED
from worker.engines.hub_listing import parse_listing

HASH = "0" * 64
GOOD = [{"path": name, "type": "blob", "size": 10, "sha256": HASH} for name in (*NEEDED, "model.safetensors")]


def listed(*besides: Any) -> list[Any]:
    return [*GOOD, *besides]


@given(
    st.lists(st.text() | st.sampled_from(["../x.json", "a/b.json", "*.json", "[a].json", ".json", "x.py", "x\n.json"]))
)
def test_no_name_leads_elsewhere_or_means_more_than_itself(names: list[str]) -> None:
    """The client takes names for patterns and joins them to a folder: `*.json` or `../x.json` must never reach it."""
    besides = [{"path": name, "type": "blob", "size": 1} for name in names]
    for file in parse_listing(listed(*besides), hub_id="a/b").taken:
        assert file.name == os.path.basename(file.name)
        assert not file.name.startswith(".")
        assert file.name.isprintable()
        assert fnmatch.translate(file.name) == fnmatch.translate(file.name.replace("*", "").replace("[", ""))
        assert not file.name.endswith((".py", ".so", ".sh", ".pkl"))


@pytest.mark.parametrize("size", [None, -1, "10", 1.5, True, 10**12])
def test_nonsense_sizes_are_refused(size: object) -> None:
    """A size decides about room on the disk, and about what counts as whole."""
    with pytest.raises(Permanent, match="bytes"):
        parse_listing(listed({"path": "vocab.json", "type": "blob", "size": size}), hub_id="a/b")


def test_safetensors_are_preferred_to_a_pickle() -> None:
    """Two gigabytes less to download, and nothing to unpickle."""
    listing = parse_listing(listed({"path": "pytorch_model.bin", "type": "blob", "size": 9}), hub_id="a/b")
    assert listing.weights.name == "model.safetensors"
    assert listing.left == ("pytorch_model.bin",)


@pytest.mark.parametrize("entry", [7, None, [], {}, {"path": 7}, {"path": "x.json", "type": "tree"}])
def test_entries_that_are_none_are_passed_over(entry: object) -> None:
    """Folders, and rubbish."""
    assert len(parse_listing(listed(entry), hub_id="a/b").taken) == len(GOOD)


def test_a_repository_that_is_no_ofa_is_refused_by_its_listing() -> None:
    """Before anything is downloaded."""
    with pytest.raises(Permanent, match=r"no merges\.txt"):
        parse_listing([entry for entry in GOOD if entry["path"] != "merges.txt"], hub_id="a/b")
    with pytest.raises(Permanent, match=r"no model\.safetensors nor pytorch_model\.bin"):
        parse_listing(GOOD[:-1], hub_id="a/b")
