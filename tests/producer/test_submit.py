"""Submitting from Python: what the handle tells, what counts as the same batch, and what goes wrong in words."""

import shutil
import tracemalloc
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select

from audit.errors import BrokerRefused, LedgerUnavailable, ManifestInvalid, ModelRefused, UsageError
from audit.message import Lane, queue_name
from audit.policy import Policy
from audit.settings import Settings
from audit.verdict import Label
from db.engine import Database, open_database
from db.tables import batches, chunks, pairs
from producer import ColumnNames, WaitTimedOut, submit
from producer.sources import open_manifest
from tests.support.manifests import small_manifest, write_csv
from tests.support.redis_lists import waiting_in
from tests.support.redis_server import RedisServer


def count(database: Database, table: object = batches) -> int:
    with database.reading() as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)  # type: ignore[arg-type]


def chunk_states(database: Database) -> list[str]:
    with database.reading() as connection:
        return [str(state) for state in connection.scalars(select(chunks.c.state).order_by(chunks.c.number))]


def rung(redis_server: RedisServer, settings: Settings, lane: Lane = Lane.BULK) -> int:
    with redis_server.client() as client:
        return len(waiting_in(client, queue_name(lane, settings.model_name)))


def test_a_submitted_file_is_registered_and_rung_for(
    tmp_path: Path, settings: Settings, redis_server: RedisServer
) -> None:
    """The first thing that anybody does with this project."""
    settings = settings.model_copy(update={"chunk_pairs": 3})
    with submit(small_manifest(tmp_path), settings=settings) as handle:
        assert (handle.pairs, handle.chunks, handle.duplicates, handle.failed) == (8, 3, 0, 0)
        assert (handle.new, handle.sent, handle.problem, handle.name) == (True, True, None, "pairs.csv")
        seen = handle.progress()
        assert (seen.state, seen.submitted, seen.remaining) == ("queued", 8, 8)
        assert rung(redis_server, settings) == 3
        assert chunk_states(handle.database) == ["sent"] * 3
        assert list(handle.outcomes()) == list(handle.flagged()) == []
        with pytest.raises(WaitTimedOut, match="was not finished"):
            handle.wait(timeout_s=0.05, poll_s=0.01)
        assert handle.retry() == 0
        assert handle.cancel() == 8
        with pytest.raises(UsageError, match="batch_cancelled"):
            handle.retry()
        assert handle.wait().state == "cancelled"


def test_a_file_of_bad_rows_alone_is_done_at_once(tmp_path: Path, settings: Settings) -> None:
    """Nothing is left for a worker, and every row says what is wrong with it."""
    path = write_csv(tmp_path / "pairs.csv", [("1", "a.png"), ("2", "", "a dog"), ("3", "a.png", "a", "b")])
    with submit(path, settings=settings) as handle:
        assert (handle.pairs, handle.failed, handle.sent) == (3, 3, True)
        assert handle.wait(timeout_s=5).failed == 3
        assert [(row.id, row.failure_code, row.failure_detail) for row in handle.outcomes()] == [
            ("1", "row_invalid", "line 2: 2 fields where the header has 3"),
            ("2", "row_invalid", "line 3: the image is empty"),
            ("3", "row_invalid", "line 4: 4 fields where the header has 3"),
        ]


def test_the_same_file_is_the_same_batch_until_somebody_says_again(
    tmp_path: Path, settings: Settings, redis_server: RedisServer
) -> None:
    """A nightly job that runs twice must not pay twice; whoever wants that says so."""
    path = small_manifest(tmp_path)
    first = submit(path, settings=settings)
    second = submit(path, settings=settings)
    assert (second.batch, second.new, second.pairs, second.chunks) == (first.batch, False, 8, 1)
    shutil.copyfile(path, tmp_path / "renamed.csv")
    renamed = submit(tmp_path / "renamed.csv", settings=settings, name="another name")
    assert (renamed.batch, renamed.new) == (first.batch, False)
    again = submit(path, settings=settings, again=True)
    assert (again.batch != first.batch, again.new, again.pairs) == (True, True, 8)
    assert rung(redis_server, settings) == 2
    assert count(first.database) == 2
    for handle in (first, second, renamed, again):
        handle.close()


def test_other_options_are_another_batch(tmp_path: Path, sqlite_settings: Settings, model_directory: Path) -> None:
    """Verdicts under another policy, model, image root or lane are other verdicts."""
    path = small_manifest(tmp_path)
    other_model = shutil.copytree(model_directory, tmp_path / "other-model")
    (tmp_path / "pictures").mkdir()
    choices: list[dict[str, object]] = [
        {},
        {"policy": Policy(labels=frozenset({Label.NO, Label.MAYBE}))},
        {"policy": Policy(p_no_at_least=0.5)},
        {"model": str(other_model)},
        {"image_root": tmp_path / "pictures"},
        {"lane": Lane.INTERACTIVE},
        {"tenant": "other"},
        {"priority": 5},
        {"columns": ColumnNames(id="caption", caption="id")},
        {"settings": sqlite_settings.model_copy(update={"chunk_pairs": 4})},
    ]
    handles = [submit(path, **{"settings": sqlite_settings, **options}) for options in choices]  # type: ignore[arg-type]
    assert len({handle.batch for handle in handles}) == len(choices)
    assert all(handle.new for handle in handles)
    with handles[0].database.reading() as connection:
        roots = list(connection.scalars(select(batches.c.image_root).order_by(batches.c.id).limit(5)))
    assert roots == [str(tmp_path)] * 4 + [str(tmp_path / "pictures")]
    for handle in handles:
        handle.close()


def test_duplicates_are_counted(tmp_path: Path, settings: Settings) -> None:
    """`submitted` is the number of pairs; how many rows were left out is said, not hidden."""
    rows = [("a", "a.png", "x"), ("a", "a.png", "x"), ("b", "a.png", "x"), ("a", "a.png", "y")]
    path = write_csv(tmp_path / "pairs.csv", rows)
    for new in (True, False):
        with submit(path, settings=settings) as handle:
            assert (handle.new, handle.pairs, handle.duplicates, handle.failed) == (new, 3, 1, 1)


def test_without_redis_the_batch_is_registered_and_says_so(
    tmp_path: Path, settings: Settings, own_redis: RedisServer
) -> None:
    """SQL is the ledger: Redis being away costs time, never pairs."""
    settings = settings.model_copy(update={"redis_url": None, "home": tmp_path / "home"})
    with submit(small_manifest(tmp_path), settings=settings) as handle:
        assert (handle.new, handle.sent, handle.pairs) == (True, False, 8)
        assert handle.problem is not None
        assert handle.problem.startswith("Redis does not take messages: ")
        assert chunk_states(handle.database) == ["pending"]
    found = Settings.model_validate({**settings.model_dump(), "redis_url": own_redis.url})
    with submit(small_manifest(tmp_path), settings=found) as handle:
        assert (handle.new, handle.sent) == (False, True)
        assert chunk_states(handle.database) == ["sent"]
    assert rung(own_redis, found) == 1


def test_a_wrong_password_of_redis_is_refused_before_anything_is_registered(
    tmp_path: Path, sqlite_settings: Settings, own_redis: RedisServer
) -> None:
    """Status 2 means that nothing was done: whoever mends the URL submits the file again."""
    url = own_redis.url.replace("://", "://:guess-1@")
    with pytest.raises(BrokerRefused, match="password"):
        submit(small_manifest(tmp_path), settings=sqlite_settings.model_copy(update={"redis_url": SecretStr(url)}))
    database = open_database(sqlite_settings.ledger_url)
    assert count(database) == 0
    database.close()


def test_what_an_operator_should_change_in_redis_comes_with_the_handle(
    tmp_path: Path, sqlite_settings: Settings, own_redis: RedisServer
) -> None:
    """The command prints it as a note; the batch is as good as any."""
    with own_redis.client() as client:
        client.config_set("appendonly", "no")
    forgetful = sqlite_settings.model_copy(update={"redis_url": SecretStr(own_redis.url)})
    with submit(small_manifest(tmp_path), settings=forgetful) as handle:
        assert (handle.sent, len(handle.notes)) == (True, 1)
        assert "appendonly yes" in handle.notes[0]


def test_a_full_redis_costs_no_pairs_either(tmp_path: Path, sqlite_settings: Settings, own_redis: RedisServer) -> None:
    """Redis without memory refuses the push, and the submission still commits."""
    settings = Settings.model_validate({**sqlite_settings.model_dump(), "redis_url": own_redis.url})
    with own_redis.client() as client:
        client.config_set("maxmemory", "1")
    with submit(small_manifest(tmp_path), settings=settings) as handle:
        assert (handle.new, handle.sent) == (True, False)
        assert chunk_states(handle.database) == ["pending"]


def test_without_the_ledger_nothing_is_accepted(tmp_path: Path, sqlite_settings: Settings) -> None:
    """A batch that nobody keeps must not look accepted."""
    away = {**sqlite_settings.model_dump(), "database_url": "postgresql://u:secret@127.0.0.1:1/x"}
    with pytest.raises(LedgerUnavailable) as caught:
        submit(small_manifest(tmp_path), settings=Settings.model_validate(away))
    assert caught.value.exit_status == 69
    assert "secret" not in f"{caught.value}"


def test_an_unknown_model_is_refused_before_anything_is_written(tmp_path: Path, sqlite_settings: Settings) -> None:
    """A batch for a model that no worker can have would wait for ever."""
    with pytest.raises(ModelRefused, match="no such directory") as caught:
        submit(small_manifest(tmp_path), settings=sqlite_settings, model="/no/such/model")
    assert caught.value.exit_status == 2
    database = open_database(sqlite_settings.ledger_url)
    assert count(database) == 0
    database.close()


def test_a_wrong_manifest_leaves_no_batch(tmp_path: Path, settings: Settings) -> None:
    """Refused whole, before anything can be claimed."""
    path = tmp_path / "pairs.csv"
    path.write_text("id,image,caption\n" + "1,a.png,a dog\n" * 5 + '6,a.png,"a cat\n')
    with pytest.raises(ManifestInvalid) as caught:
        submit(path, settings=settings)
    assert caught.value.detail == f"{path}: line 7: a quote is not closed"
    database = open_database(settings.ledger_url)
    assert count(database) == 0
    database.close()


def test_a_file_that_changes_while_it_is_submitted_is_refused_whole(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it would be of the old file and half of the new one."""
    monkeypatch.setattr("producer.registering.SLICE_ROWS", 4)
    settings = settings.model_copy(update={"chunk_pairs": 2})
    path = small_manifest(tmp_path, pairs=20)
    seen: list[tuple[int, int]] = []

    def grow(done: int, rows: int) -> None:
        seen.append((done, rows))
        if done == 8:
            with path.open("a") as file:
                file.write("p20,red.png,one more\n")

    with pytest.raises(ManifestInvalid, match="the file changed while it was read"):
        submit(path, settings=settings, on_progress=grow)
    assert seen == [(4, 20), (8, 20)]
    database = open_database(settings.ledger_url)
    assert [count(database, table) for table in (batches, chunks, pairs)] == [0, 0, 0]
    database.close()
    with submit(path, settings=settings) as handle:
        assert (handle.new, handle.pairs) == (True, 21)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_root": "/no/such/folder"}, "the image root '/no/such/folder' is no directory"),
        ({"tenant": ""}, "the tenant is empty"),
        ({"tenant": "a\0"}, "the tenant must be UTF-8 text"),
        ({"name": "x" * 201}, "the name must be UTF-8 text of at most 200 characters"),
        ({"priority": 10**6}, "the priority must be from -1000 to 1000"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, sqlite_settings: Settings, options: dict[str, object], reason: str
) -> None:
    """One line that names the option; nothing is registered."""
    with pytest.raises(UsageError, match=reason) as caught:
        submit(small_manifest(tmp_path), settings=sqlite_settings, **options)  # type: ignore[arg-type]
    assert caught.value.exit_status == 2


def test_a_longer_file_needs_no_more_memory(tmp_path: Path) -> None:
    """A file of ten million rows is read on a small machine."""

    def peak(rows: int) -> int:
        path = write_csv(tmp_path / f"{rows}.csv", ((f"p{n}", f"{n}.png", f"caption {n}") for n in range(rows)))
        tracemalloc.start()
        with open_manifest(path) as manifest:
            assert sum(1 for _ in manifest.entries()) == rows
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(20_000) < peak(2_000) + 200_000
