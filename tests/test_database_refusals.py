"""What `to_database` is given and cannot work: told at once, with the remedy, and never with the password."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from live import Create, creating
from postgres import GUARDED, PASSWORD, Postgres
from test_to_database import TABLE, chunks_in

from cmdop_jupyter.errors import CmdopError, ConnectFailed, Detached, InvalidRequest, NotSupported
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.sinks.database import to_database
from cmdop_jupyter.stream import Stream


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def file_url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/output.db"


@pytest.mark.parametrize(
    ("database", "remedy"),
    [
        ("output.db", r"no database URL; .* sqlite:///file.db"),
        ("postgresql://me:se/cret@host:port/x", "no database URL"),
        (Path("output.db"), "say 'sqlite:///output.db'"),
        (None, "not NoneType; a database URL looks like"),
        (
            "postgres://me:secret@host/x",
            r"pip install 'psycopg\[binary\]'` and say postgresql\+psycopg://me:\*\*\*@host/x",
        ),
        ("postgresql+psycopg2://me:secret@host/x", r"driver psycopg2, .* say postgresql\+psycopg://me:\*\*\*@host/x"),
        ("mysql://me:secret@host/x", r"pip install 'pymysql'` and say mysql\+pymysql://me:\*\*\*@host/x"),
        ("nothing://x", "knows no nothing://; a database URL looks like"),
        ("sqlite+aiosqlite:///x.db", "asynchronous driver, aiosqlite; say sqlite:///x.db"),
        ("postgresql+asyncpg://me:secret@host/x", r"asyncpg; `pip .* say postgresql\+psycopg://me:\*\*\*@host/x"),
        ("sqlite://", "for one connection only; name a file"),
        ("sqlite:////nowhere/at/all.db", r"unable to open database file; its folder must be there"),
        ("sqlite:////proc/output.db", r"unable to open database file; its folder must be there"),
        (SimpleNamespace(sync_engine=None), "an AsyncEngine cannot be used here"),
    ],
)
def test_a_database_that_cannot_work_is_told_at_the_call(create, database, remedy):
    with pytest.raises(InvalidRequest, match=remedy) as caught:
        to_database(create("true"), database)

    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"unit": "word"}, "chunk or line, not 'word'"),
        ({"channel": "out"}, "a channel is"),
        ({"batch_rows": 0}, "1 row or more, got 0"),
        ({"flush_interval": -1}, "must not be negative"),
        ({"start": "then"}, "begin"),
        ({"table": ""}, "a table's name"),
        ({"table": "a b; drop"}, "a table's name"),
        ({"table": "x" * 56}, "at most 55 bytes"),
    ],
)
def test_what_makes_no_sense_is_told_at_the_call(create, file_url, options, why):
    with pytest.raises(InvalidRequest, match=why):
        to_database(create("true"), file_url, **options)


def test_a_stream_without_a_session_is_told(file_url):
    with pytest.raises(Detached, match="attach"):
        to_database(Stream(LocalMachine()), file_url)


def test_without_sqlalchemy_it_says_what_to_install(create, file_url, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)

    with pytest.raises(NotSupported, match=r"pip install 'cmdop-jupyter\[database\]'"):
        to_database(create("true"), file_url)


def test_a_table_of_the_other_unit_is_refused(create, file_url):
    to_database(create("true"), file_url).result()

    with pytest.raises(InvalidRequest, match=r"it holds chunks \(unit='chunk'\); name another table"):
        to_database(create("true"), file_url, unit="line")


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ("id integer primary key", "no column channel, data, offset, session, time"),
        ("session text, time text, channel text, data blob, 'offset' integer", "its primary key is not"),
        (
            "session text, time text, channel text, data blob, 'offset' int, own int not null, "
            "primary key (session, 'offset')",
            "it wants a value for own",
        ),
    ],
)
def test_a_table_made_for_something_else_is_refused(create, file_url, columns, why):
    engine = sa.create_engine(file_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {TABLE} ({columns.replace(chr(39), chr(34))})")

    with pytest.raises(InvalidRequest, match=why):
        to_database(create("true"), file_url)


def test_a_file_that_is_no_database_is_told_at_the_call(create, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing of that kind\n" * 100)

    with pytest.raises(InvalidRequest, match="file is not a database"):
        to_database(create("true"), f"sqlite:///{tmp_path}/notes.txt")


@pytest.mark.parametrize("there", [False, True])
def test_a_database_that_may_not_be_written_is_told_at_once(create, tmp_path, there):
    url = f"sqlite:///{tmp_path}/output.db"
    if there:
        to_database(create("true"), url).result()
    else:
        (tmp_path / "output.db").touch()

    with pytest.raises(InvalidRequest, match="readonly database; its folder must be there"):
        to_database(create("true"), f"sqlite:///file:{tmp_path}/output.db?mode=ro&uri=true").result()


def test_a_user_who_may_make_no_table_is_told(create, server):
    guarded = server.url(sa.make_url(server.database()).database, GUARDED, PASSWORD)

    with pytest.raises(InvalidRequest, match="permission denied for schema public; this user may not"):
        to_database(create("true"), guarded).result()


def test_rows_that_nobody_knows_of_are_not_written_over(create, file_url):
    url = file_url
    stream = create("echo hello")
    to_database(stream, url).result()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(f"DELETE FROM {TABLE}_offsets"))

    with pytest.raises(InvalidRequest, match="delete them, or forward into another table"):
        to_database(stream, url).result()


@pytest.mark.parametrize(
    ("name", "password", "remedy"),
    [
        ("postgres", "wrong", "password authentication failed.*check the user and the password"),
        ("nowhere", PASSWORD, 'database "nowhere" does not exist; make that database first'),
    ],
)
def test_a_server_that_will_not_have_us_is_told_at_once(create, server, name, password, remedy):
    sink = to_database(create("true"), server.url(name, GUARDED, password))

    with pytest.raises(ConnectFailed, match=remedy) as caught:
        sink.result()

    assert sink.errors == 1
    assert password not in str(caught.value) + repr(sink)


def test_a_password_lets_in(create, server):
    url = server.database()
    name = sa.make_url(url).database
    server.execute(f"ALTER DATABASE {name} OWNER TO {GUARDED}")

    to_database(create("echo hello"), server.url(name, GUARDED, PASSWORD)).result()

    assert chunks_in(url) == b"hello\n"


def test_a_user_who_may_not_write_is_told(create, server):
    url = server.database()
    to_database(create("true"), url).result()
    guarded = server.url(sa.make_url(url).database, GUARDED, PASSWORD)

    with pytest.raises(CmdopError, match="permission denied for table"):
        to_database(create("echo hello"), guarded).result()
