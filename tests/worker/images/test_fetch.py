"""References lead to files inside the image root, or to a failure that says why not; never out, and never to a wait."""

import errno
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.errors import BadImage, Transient
from worker.images.codes import FETCH_CODES
from worker.images.fetch import read_picture
from worker.images.limits import ImageLimits

LIMITS = ImageLimits(max_image_bytes=1_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a picture in it, and a secret beside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "a").write_bytes(b"secret")
    made = tmp_path / "root"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "a.jpg").write_bytes(b"picture")
    return made


def outcome(reference: str, root: Path, limits: ImageLimits = LIMITS) -> bytes | str:
    """The bytes, or the code of the failure."""
    try:
        return read_picture(reference, root=root, limits=limits)
    except BadImage as error:
        return error.code


def test_paths_are_taken_from_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative ones from it, absolute ones inside it, whatever the working folder is."""
    monkeypatch.chdir("/")
    for reference in ("sub/a.jpg", "./sub/a.jpg", "sub//a.jpg", "sub/./a.jpg", str(root / "sub/a.jpg")):
        assert outcome(reference, root) == b"picture"


@pytest.mark.parametrize(
    "reference",
    ["http://h/a.jpg", "https://u:p@h/a", "file:///etc/passwd", "FILE:/etc/passwd", "data:image/png;base64,AAAA",
     "s3://b/k", "gopher://h", "ftp://h/a", " http://h", "\n\thttps://h", "jar:file:/x", "javascript:x", "urn:x"],
)  # fmt: skip
def test_urls_are_refused_by_their_scheme(reference: str, root: Path) -> None:
    """Nothing is fetched in this version, and the message says so without the password that a URL may hold."""
    with pytest.raises(BadImage, match="reads pictures from files") as caught:
        read_picture(reference, root=root, limits=LIMITS)
    assert caught.value.code == "url_scheme"
    assert "u:p" not in str(caught.value)


def test_a_file_name_with_a_colon_can_still_be_given(root: Path) -> None:
    """Such names are legal; the failure's message says how to write them."""
    (root / "img:1.jpg").write_bytes(b"colon")
    (root / "10:30.jpg").write_bytes(b"time")
    assert [outcome(name, root) for name in ("img:1.jpg", "./img:1.jpg", "10:30.jpg")] == [
        "url_scheme", b"colon", b"time",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "reference",
    ["..", "../secret", "sub/../../secret", "sub/../sub/a.jpg", "/etc/passwd", "/", "//etc/passwd",
     "/proc/self/environ",
     "../root-too/a", "a\0.jpg", "\0", "../missing", "/nowhere/at/all"],
)  # fmt: skip
def test_paths_that_leave_the_root_are_denied(reference: str, root: Path) -> None:
    """A manifest must not read the host's files, nor learn which exist."""
    assert outcome(reference, root) == "path_denied"


def test_a_neighbour_whose_name_begins_like_the_root_is_outside(root: Path) -> None:
    """`/data/root-too` starts with `/data/root`, and is another folder."""
    assert outcome(str(root.parent / "root-too" / "a"), root) == "path_denied"


@pytest.mark.parametrize(
    "target", ["../secret", "../../../../../../etc/passwd", "/dev/zero", "/", "../missing", "/root/x"]
)
def test_links_that_lead_out_are_denied(target: str, root: Path) -> None:
    """Also to a device, a folder, and to what is not there: the answer must not tell."""
    (root / "link").symlink_to(target)
    (root / "chain").symlink_to("link")
    (root / "folder").symlink_to("..")
    assert [outcome(name, root) for name in ("link", "chain", "folder/secret")] == ["path_denied"] * 3


def test_links_inside_the_root_are_followed_and_the_root_may_be_one(root: Path) -> None:
    """Data sets are often folders of links."""
    (root / "link.jpg").symlink_to("sub/a.jpg")
    (root / "absolute.jpg").symlink_to(root / "sub" / "a.jpg")
    (root / "sub" / "up.jpg").symlink_to("../link.jpg")
    alias = root.parent / "alias"
    alias.symlink_to(root)
    for place in (root, alias):
        for name in ("link.jpg", "absolute.jpg", "sub/up.jpg"):
            assert outcome(name, place) == b"picture"
    assert outcome(str(root / "sub/a.jpg"), alias) == b"picture"
    assert outcome(str(alias / "sub/a.jpg"), root) == b"picture"


def test_a_link_that_changes_in_between_never_leads_out(root: Path) -> None:
    """Checking a path and then opening it again leaves a gap that an attacker can use."""
    running = threading.Event()
    running.set()

    def swap() -> None:
        while running.is_set():
            for target in ("sub/a.jpg", "../secret"):
                os.symlink(target, root / "new")
                os.replace(root / "new", root / "link")

    os.symlink("sub/a.jpg", root / "link")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        found = {outcome("link", root) for _ in range(3_000)}
    finally:
        running.clear()
        thread.join()
    assert found <= {b"picture", "path_denied"}


@pytest.mark.parametrize(
    "reference", ["", "none.jpg", "sub/none", "none/a.jpg", "sub/a.jpg/b", "sub/a.jpg/", " ", "~", "a\ud800"]
)
def test_missing_files_are_missing(reference: str, root: Path) -> None:
    """The commonest failure of all; also for names that no file can have."""
    assert outcome(reference, root) == "file_missing"


def test_a_root_that_is_missing_or_empty_is_away_and_its_files_are_not_missing(root: Path) -> None:
    """A mount that is lost leaves an empty folder or none; its pictures are as they were."""
    (root.parent / "bare").mkdir()
    for name, why in (("gone", "No such file"), ("bare", "is empty")):
        with pytest.raises(Transient, match=why) as away:
            outcome("a.jpg", root.parent / name)
        assert away.value.code == "pictures_away"
    (root.parent / "bare" / "another.jpg").touch()
    assert outcome("a.jpg", root.parent / "bare") == "file_missing"


@pytest.mark.parametrize("reference", ["a" * 4_096, "a" * 256, "a/" * 3_000 + "a", "\U0001f600" * 2_000])
def test_names_that_are_too_long_are_unreadable_and_shown_short(reference: str, root: Path) -> None:
    """Four thousand characters in a report help nobody."""
    with pytest.raises(BadImage) as caught:
        read_picture(reference, root=root, limits=LIMITS)
    assert (caught.value.code, len(caught.value.detail) < 250) == ("file_unreadable", True)


def test_names_that_are_not_utf_8_work_and_print_escaped(root: Path) -> None:
    """Old archives are full of them; a raw byte in a message breaks the report."""
    name = os.fsdecode(b"caf\xe9.jpg")
    with open(os.fsencode(root) + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"latin-1")
    assert outcome(name, root) == b"latin-1"
    with pytest.raises(BadImage, match=r"no file caf\\xe9.jpgx in") as caught:
        read_picture(name + "x", root=root, limits=LIMITS)
    caught.value.detail.encode("utf-8")


def test_messages_show_hostile_names_harmlessly(root: Path) -> None:
    """A name can clear a terminal, or turn `gpj.exe` around."""
    for name in ("\x1b[2Jx", "a\u202egpj.exe", "line\nbreak", "\u200b", "\x9b31m"):
        with pytest.raises(BadImage) as caught:
            read_picture(name, root=root, limits=LIMITS)
        assert caught.value.detail.isprintable()


def test_messages_do_not_tell_where_the_root_is(root: Path) -> None:
    """Failures are read by people who have no business on this host."""
    (root / "out").symlink_to("/etc")
    (root / "empty").touch()
    for reference in ("none", "../x", "sub", "out/passwd", "a" * 5_000, "empty", "out"):
        with pytest.raises(BadImage) as caught:
            read_picture(reference, root=root, limits=LIMITS)
        assert str(root.parent) not in str(caught.value)


@given(
    st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "sub", "a.jpg", "", "link"]), max_size=6).map("/".join)
)
def test_any_reference_reads_inside_the_root_or_fails_with_a_code(reference: str) -> None:
    """Whatever the manifest says."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        (root / "sub").mkdir(parents=True)
        (root / "sub" / "a.jpg").write_bytes(b"picture")
        (root / "link").symlink_to("..")
        (root.parent / "a.jpg").write_bytes(b"secret")
        found = outcome(reference, root)
    assert found == b"picture" or found in FETCH_CODES


def test_one_unreadable_file_is_no_lost_mount(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector fails its own picture; where the folder is away too, nobody's picture has failed."""
    real_open = os.open

    def bad_sector(path: str | bytes, flags: int, *more: int) -> int:
        if b"/fd/" in os.fsencode(path):
            raise OSError(errno.EIO, "as the kernel says it")
        return real_open(path, flags, *more)

    monkeypatch.setattr("worker.images.fetch.os.open", bad_sector)
    assert outcome("sub/a.jpg", root) == "file_unreadable"
    monkeypatch.setattr("worker.images.fetch.os.scandir", lambda _path: bad_sector("/fd/", 0))
    with pytest.raises(Transient, match="pictures_away"):
        read_picture("sub/a.jpg", root=root, limits=LIMITS)
