"""Sessions into real databases, SQLite and PostgreSQL: each chunk or line once, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import GO, Create, creating, go, numbered
from postgres import Postgres
from sqlalchemy.exc import OperationalError
from test_rows import CUTS, PIECES, lines_of, log_of, read

from cmdop_jupyter.errors import InvalidRequest
from cmdop_jupyter.sinks.base import TryAgain
from cmdop_jupyter.sinks.database import DatabaseTaker, to_database
from cmdop_jupyter.sinks.tables import Tables
from cmdop_jupyter.stream import Stream

TABLE = "cmdop_output"
BOTH = "for n in $(seq {0}); do echo out $n; echo err $n >&2; done"
ALTERNATELY = "awk 'BEGIN {{ for (n = 1; n <= {0}; n++) {{ print n; fflush(); print n > \"/dev/stderr\"; }} }}'"


@pytest.fixture
def create(state_dir) -> Iterator[Create]:
    with creating() as create:
        yield create


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """A new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/output.db"
    return str(request.getfixturevalue("server").database())


@pytest.fixture
def file_url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/output.db"


def query(url: str, statement: str) -> list[sa.Row]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.execute(sa.text(statement)))


def chunks_in(url: str, channel: str | None = None) -> bytes:
    """All that a table has, by offset. Fails when the rows do not lie one behind the other."""
    rows = query(url, f'SELECT "offset", channel, data FROM {TABLE} ORDER BY "offset"')
    if channel is None:
        for before, after in itertools.pairwise(rows):
            assert before.offset + len(before.data) == after.offset
    return b"".join(row.data for row in rows if channel in (None, row.channel))


def lines_in(url: str) -> list[tuple[int, str, str]]:
    rows = query(url, f'SELECT "offset", channel, line FROM {TABLE} ORDER BY "offset"')
    return [(row.offset, row.channel, row.line) for row in rows]


def lines_said(stream: Stream) -> list[tuple[int, str, str]]:
    return sorted((line.start, line.channel, line.text.replace("\0", "␀")) for line in stream.lines())


# -- what is in the table


def test_the_chunks_are_the_log_byte_by_byte(create, url):
    stream = create(BOTH.format(2000), tty="none")

    to_database(stream, url).result()

    assert chunks_in(url) == stream.read()
    assert chunks_in(url, "stderr") == b"".join(b"err %d\n" % n for n in range(1, 2001))


def test_the_lines_are_those_of_the_stream(create, url):
    stream = create(
        r"printf 'one\r\n\n\ntwo\rthree\n'; printf 'oops\n\n' >&2; "
        r"printf '\033[31mred\033[0m \xff \0 ✓\n'; printf 'no end'",
        tty="none",
    )

    to_database(stream, url, unit="line").result()

    assert lines_in(url) == lines_said(stream)
    assert [text for _, channel, text in lines_in(url) if channel == "stdout"][-2:] == ["red � ␀ ✓", "no end"]


def test_one_channel_only(create, url):
    stream = create(BOTH.format(100), tty="none")

    to_database(stream, url, channel="stderr", unit="line").result()

    assert [line for _, _, line in lines_in(url)] == [f"err {n}" for n in range(1, 101)]


def test_rows_have_the_session_and_the_time_in_utc(create, server):
    url = server.database()
    stream = create("echo hello")

    to_database(stream, url).result()

    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        row = connection.execute(sa.select(sa.Table(TABLE, sa.MetaData(), autoload_with=connection))).one()
    assert (row.session, row.offset, row.channel, row.data) == (stream.session_id, 0, "stdout", b"hello\n")
    assert row.time.tzinfo is not None
    assert timedelta(0) <= datetime.now(UTC) - row.time < timedelta(minutes=10)
    [chunk] = asyncio.run(_all(stream))
    assert row.time == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=chunk.wall_ns // 1000)


async def _all(stream: Stream) -> list:
    return [chunk async for chunk in stream.chunks()]


def test_several_sessions_share_a_table(create, url):
    one, two = create("echo one"), create("echo two")

    for stream in (one, two):
        to_database(stream, url, unit="line").result()

    rows = query(url, f"SELECT session, line FROM {TABLE}")
    assert {(row.session, row.line) for row in rows} == {(one.session_id, "one"), (two.session_id, "two")}


def test_lines_written_alternately_are_exact_on_each_channel(create, url):
    stream = create(ALTERNATELY.format(20_000), tty="none")

    to_database(stream, url, unit="line").result()

    rows = lines_in(url)
    for channel in ("stdout", "stderr"):
        said = "".join(f"{line}\n" for _, name, line in rows if name == channel)
        assert said.encode() == numbered(1, 20_000)


def test_random_bytes_come_out_as_they_were(create, url, tmp_path):
    stream = create(f"head -c 20000000 /dev/urandom | tee {tmp_path}/copy", tty="none")

    to_database(stream, url).result()

    wanted = hashlib.sha256((tmp_path / "copy").read_bytes()).hexdigest()
    assert hashlib.sha256(chunks_in(url)).hexdigest() == wanted


def test_output_is_there_while_the_session_runs(create, url):
    stream = create(f"echo one; {GO}; echo two", tty="none")
    stream.wait_for("one").result()
    with to_database(stream, url, unit="line", flush_interval=0) as sink:
        sink.reached().result()

        assert [line for _, _, line in lines_in(url)] == ["one"]


def test_it_may_begin_later(create, url):
    stream = create(f"echo one; {GO}; echo two", tty="none")
    stream.wait_for("one").result()

    sink = to_database(stream, url, unit="line", start="now")
    go(stream)
    sink.result()

    assert lines_in(url) == [(4, "stdout", "two")]


# -- going on


@pytest.mark.parametrize("unit", ["chunk", "line"])
def test_a_new_sink_goes_on_where_the_last_one_was(create, url, unit):
    stream = create(f"printf 'one\\npart'; printf 'err' >&2; {GO}; echo ial; seq 1000; echo or >&2", tty="none")
    stream.wait_for("part").result()
    first = to_database(stream, url, unit=unit)
    first.reached().result()
    first.close()

    go(stream)
    to_database(stream, url, unit=unit, start="now").result()

    assert lines_in(url) == lines_said(stream) if unit == "line" else chunks_in(url) == stream.read()


def test_a_session_that_is_in_the_table_stays_as_it_is(create, url):
    stream = create("seq 100; printf end", tty="none")

    for _ in range(3):
        to_database(stream, url, unit="line").result()

    assert lines_in(url) == lines_said(stream)


FORWARD = """
import asyncio, sys
from cmdop_jupyter.client import Terminal
from cmdop_jupyter.machines.local import LocalMachine
from cmdop_jupyter.sinks.database import to_database
session, url, unit = sys.argv[1:]
stream = Terminal(LocalMachine()).stream()
stream.attach(session, start="begin").result()
sink = to_database(stream, url, unit=unit, batch_rows=50, flush_interval=0)
while True:
    print(sink.reached((sink.offset or 0) + 1).result(), flush=True)
"""


@pytest.mark.parametrize("unit", ["chunk", "line"])
def test_one_that_is_killed_leaves_each_row_to_the_next_once(create, url, unit):
    script = (
        "for n in $(seq 400); do printf '%020000d\\n' $n; printf 'err %d ' $n >&2; done"  # 8 MB: several transactions
    )
    stream = create(script, tty="none")
    stream.wait_exit().result()
    for _ in range(2):
        words = [sys.executable, "-c", FORWARD, stream.session_id, url, unit]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert query(url, f"SELECT taken FROM {TABLE}_offsets")[0].taken < stream.status.end

    to_database(stream, url, unit=unit).result()

    assert lines_in(url) == lines_said(stream) if unit == "line" else chunks_in(url) == stream.read()


@pytest.mark.parametrize("unit", ["chunk", "line"])
def test_a_server_that_is_killed_has_each_row_once(create, unit):
    with Postgres() as server:
        url = server.database()
        stream = create(f"; {GO}; ".join([BOTH.format(5000)] * 3), tty="none")
        sink = to_database(stream, url, unit=unit, batch_rows=100, flush_interval=0)
        for offset in (1000, 100_000):
            sink.reached(offset).result()
            server.kill()
            go(stream)
            server.start()
        sink.result()

        assert sink.errors >= 1
        assert lines_in(url) == lines_said(stream) if unit == "line" else chunks_in(url) == stream.read()


@pytest.mark.parametrize("unit", ["chunk", "line"])
def test_two_at_once_write_each_row_once(create, url, unit):
    stream = create(f"{BOTH.format(1000)}; {GO}; {BOTH.format(5000)}", tty="none")

    sinks = [to_database(stream, url, unit=unit, flush_interval=0) for _ in range(2)]
    go(stream)
    for sink in sinks:
        sink.result()

    assert lines_in(url) == lines_said(stream) if unit == "line" else chunks_in(url) == stream.read()


def test_what_is_forwarded_whole_cannot_be_forwarded_by_channel_too(create, url):
    stream = create("echo one", tty="none")
    to_database(stream, url).result()

    with pytest.raises(InvalidRequest, match=r"has all of session .* each row is there once"):
        to_database(stream, url, channel="stdout").result()


def test_a_database_that_is_locked_is_asked_again(create, file_url):
    stream = create("seq 1000", tty="none")
    to_database(create("true"), file_url).result()
    engine = sa.create_engine(file_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.execute(sa.text(f"DELETE FROM {TABLE}"))
        sink = to_database(stream, f"{file_url}?timeout=0")
        while not sink.errors:
            sink.lag  # noqa: B018  (asks the session)
        connection.rollback()

    sink.result()
    assert chunks_in(file_url) == numbered(1, 1000)


def test_a_server_that_is_not_up_yet_is_waited_for(create):
    with Postgres() as server:
        url = server.database()
        server.kill()
        sink = to_database(create("echo hello"), url)
        while not sink.errors:
            sink.lag  # noqa: B018  (asks the session)
        assert sink.state == "retrying"
        server.start()

        sink.result()
        assert chunks_in(url) == b"hello\n"


# -- every way to fail


class Unreliable:
    """An engine on a file whose commits fail as they are told: `lost` after they are done, `failed` before."""

    def __init__(self, url: str, **options: str) -> None:
        self.engine = sa.create_engine(url, **options)
        self.plan: Iterator[str] = iter(())
        sa.event.listen(self.engine, "commit", self._commit)

    def _commit(self, connection: sa.Connection) -> None:
        how = next(self.plan, "")
        if how == "lost":
            connection.connection.dbapi_connection.commit()
        if how:
            raise OperationalError("COMMIT", {}, Exception(how))


@pytest.fixture
def unreliable(file_url) -> Iterator[Unreliable]:
    one = Unreliable(file_url)
    yield one
    one.engine.dispose()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=PIECES,
    cuts=CUTS,
    plan=st.lists(st.sampled_from(["", "lost", "failed"]), max_size=12),
    unit=st.sampled_from(["line", "chunk"]),
    batch_rows=st.integers(1, 4),
)
def test_the_rows_are_the_log_however_it_is_cut_and_whatever_commit_fails(
    unreliable, pieces, cuts, plan, unit, batch_rows
):
    log, tables = log_of(pieces), Tables(unreliable.engine, unit, "line" if unit == "line" else "data")
    unreliable.plan = iter(())
    tables.prepare()
    with unreliable.engine.begin() as connection:
        connection.execute(tables.rows.delete())
        connection.execute(tables.offsets.delete())
    unreliable.plan = iter(plan)

    asyncio.run(_forward(DatabaseTaker("session", tables, unit, "all", batch_rows), log, cuts))

    with unreliable.engine.connect() as connection:
        rows = list(connection.execute(sa.select(tables.rows).order_by(tables.rows.c.offset)))
    if unit == "line":
        assert [(row.offset, row.channel, row.line) for row in rows] == lines_of(log)
    else:
        assert b"".join(row.data for row in rows) == b"".join(chunk.data for chunk in log)
        assert all(a.offset + len(a.data) == b.offset for a, b in itertools.pairwise(rows))


def test_an_engine_that_commits_by_itself_has_its_rows_once_too(file_url):
    unreliable, log = Unreliable(file_url, isolation_level="AUTOCOMMIT"), log_of([("stdout", numbered(1, 50))])
    tables = Tables(unreliable.engine, TABLE, "line")
    tables.prepare()
    unreliable.plan = iter(["", "failed", "lost", "failed", "", "lost"])

    asyncio.run(_forward(DatabaseTaker("session", tables, "line", "all", 3), log, [20]))

    unreliable.engine.dispose()
    assert [line for _, _, line in lines_in(file_url)] == [f"{n}" for n in range(1, 51)]


async def _forward(taker: DatabaseTaker, log: list, cuts: list[int]) -> None:
    """As a sink does it, without its pauses, and with reads as short as `cuts`; those grow, so that it gets there."""
    end, steps = log[-1].end if log else 0, 0
    try:
        while True:
            try:
                offset = await taker.resume()
                if offset is None:
                    await taker.take([], offset := 0)
                while offset < end:
                    size = cuts[steps % len(cuts)] + steps // 20
                    steps += 1
                    await taker.take(read(log, offset, size), min(end, offset + size))
                    offset = min(end, offset + size)
                await taker.finish()
                return
            except TryAgain:
                pass
    finally:
        await taker.close()


# -- whose it is


def test_an_engine_stays_its_owners(create, file_url):
    engine = sa.create_engine(file_url)
    with engine.connect():
        pass
    pool = engine.pool

    to_database(create("echo hello"), engine).result()

    assert engine.pool is pool  # dispose() makes another
    engine.dispose()
    assert chunks_in(file_url) == b"hello\n"


def test_a_sink_that_is_closed_leaves_no_thread(create, url):
    before = set(threading.enumerate())
    stream = create("echo hello; cat", tty="none")
    sink = to_database(stream, url)
    stream.wait_for("hello").result()
    sink.reached().result()
    threads = [one for one in set(threading.enumerate()) - before if one.name == "cmdop-database"]
    assert threads

    sink.close()

    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
