"""Rows, and how far they reach, in two tables of a database that SQLAlchemy reaches; what it raises becomes ours."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from ..errors import CmdopError, ConnectFailed, InvalidRequest
from .base import TryAgain
from .rows import Position, Row

LONGEST_NAME = 55  # bytes of a table's name; `_offsets` comes behind it, and PostgreSQL cuts names at 63

INSTEAD = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
PACKAGES = {"postgresql": "psycopg[binary]", "mysql": "pymysql", "mariadb": "pymysql"}
SILENCE = {  # libpq: how long until a server that says nothing is one that is gone
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
LOOKS = "a database URL looks like sqlite:///file.db or postgresql+psycopg://user:password@host/name"

# What a database says when trying again would end the same, and what a person can do about it.
HOPELESS = {
    r"password|authentication|access denied|pg_hba": "check the user and the password in the URL",
    r"database .*does not exist|unknown database": "make that database first, or name another one in the URL",
    r"role .*does not exist": "make that user first, or name another one in the URL",
    r"permission denied": "this user may not do that: let its owner GRANT it, or take another one",
    r"name or service not known|nodename nor servname": "check the name of the host in the URL",
    r"unable to open|readonly|read-only": "its folder must be there, and it and the file must be writable for you",
}


class Tables:
    """The table of one `unit`, `data` for chunks or `line`, and beside it `<name>_offsets`. Blocks; on one thread.

    Attributes:
        place: Where it is, without the password.

    Raises:
        InvalidRequest: It cannot be reached so; the text says how.
    """

    def __init__(self, database: object, name: str, column: str) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[^\W\d]\w*", name) or len(name.encode()) > LONGEST_NAME:
            raise InvalidRequest(
                f"a table's name is a letter, then letters, digits and _, at most {LONGEST_NAME} bytes; got {name!r}"
            )
        self.engine, self._own = _engine_of(database)
        self.place = shown(self.engine.url)
        self.is_file = self.engine.dialect.name == "sqlite"
        # Whatever the engine is set to: AUTOCOMMIT would part the rows from the note of how far they reach.
        level = "SERIALIZABLE" if self.is_file else "READ COMMITTED"
        self._engine = self.engine.execution_options(isolation_level=level)
        self._met = False  # something was written
        self._name, self._column = name, column
        self._metadata = sa.MetaData()
        self.rows = sa.Table(
            name,
            self._metadata,
            sa.Column("session", sa.String(64), primary_key=True),
            sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("time", sa.DateTime(timezone=True), nullable=False),
            sa.Column("channel", sa.String(8), nullable=False),
            sa.Column(column, sa.LargeBinary if column == "data" else sa.Text, nullable=False),
        )
        self.offsets = sa.Table(
            f"{name}_offsets",
            self._metadata,
            sa.Column("session", sa.String(64), primary_key=True),
            sa.Column("channel", sa.String(8), primary_key=True),
            sa.Column("taken", sa.BigInteger, nullable=False),
            sa.Column("unfinished", sa.String(255), nullable=False),
        )

    def prepare(self) -> None:
        """Make the tables that are missing, and look whether those that are there will do.

        Raises:
            TryAgain: It does not answer now.
            ConnectFailed: It will not answer before somebody has done something.
            InvalidRequest: A table is made for something else.
        """
        with self._told():
            missing = self._missing()
            if not missing:
                return
            try:
                with self._engine.begin() as connection:
                    self._metadata.create_all(connection, missing, checkfirst=False)
            except exc.DBAPIError:
                if self._missing():  # else another sink has just made them
                    raise

    def look(self) -> None:
        """As `prepare`, on any thread; a database that does not answer now is no trouble yet."""
        try:
            with contextlib.suppress(TryAgain):
                self.prepare()
        finally:
            self.dispose()

    def position(self, session: str, channel: str) -> Position | None:
        """How far the rows of a session reach; None: there are none.

        Raises:
            TryAgain: It does not answer now.
            InvalidRequest: The table has this session by other channels.
        """
        offsets = self.offsets.c
        query = sa.select(offsets.channel, offsets.taken, offsets.unfinished).where(offsets.session == session)
        with self._told(), self._engine.connect() as connection:
            found = {row.channel: Position(row.taken, json.loads(row.unfinished)) for row in connection.execute(query)}
        others = found.keys() - {channel}
        if others and "all" in {channel, *others}:
            raise InvalidRequest(
                f"{self._name} has {', '.join(sorted(others))} of session {session} already, and each row is there "
                f"once: forward the same channel, or forward into another table"
            )
        return found.get(channel)

    def write(
        self,
        session: str,
        channel: str,
        was: Position | None,
        taken: int,
        batches: Iterable[list[Row]],
        unfinished: Callable[[], Mapping[str, int | None]],
    ) -> Position:
        """Write rows and how far they reach, all or nothing, if they reach no further than `was` yet; gives how far.

        Args:
            unfinished: Asked once all batches are written.

        Raises:
            TryAgain: It does not answer now: it may have all or nothing. Or somebody else wrote.
        """
        with self._told(), self._engine.begin() as connection:
            guess = was.unfinished if was else {}
            self._claim(connection, session, channel, was, taken)
            for batch in batches:
                try:
                    connection.execute(self.rows.insert(), batch)
                except exc.IntegrityError:
                    raise InvalidRequest(
                        f"{self._name} has rows of session {session} behind byte {was.restart if was else 0} that "
                        f"{self.offsets.name} does not know of; delete them, or forward into another table"
                    ) from None
            now = Position(taken, dict(unfinished()))
            if now.unfinished != guess:
                connection.execute(self._row_of(session, channel).values(unfinished=_text(now.unfinished)))
        self._met = True
        return now

    def dispose(self) -> None:
        """Let go of all connections, if they are ours."""
        if self._own:
            self.engine.dispose()

    def _claim(self, connection: sa.Connection, session: str, channel: str, was: Position | None, taken: int) -> None:
        """Say that we write what follows `was`. From here to the end of the transaction nobody else can."""
        theirs = TryAgain(f"somebody else forwards session {session} into {self._name} too")
        if was is None:
            first = {"session": session, "channel": channel, "taken": taken, "unfinished": _text({})}
            try:
                connection.execute(self.offsets.insert(), first)
            except exc.IntegrityError:
                raise theirs from None
            return
        offsets = self.offsets.c
        same = (offsets.taken == was.taken) & (offsets.unfinished == _text(was.unfinished))
        if connection.execute(self._row_of(session, channel).where(same).values(taken=taken)).rowcount != 1:
            raise theirs

    def _row_of(self, session: str, channel: str) -> sa.Update:
        offsets = self.offsets.c
        return self.offsets.update().where((offsets.session == session) & (offsets.channel == channel))

    def _missing(self) -> list[sa.Table]:
        """Which tables are not there. Raises InvalidRequest when one is made for something else."""
        with self._engine.connect() as connection:
            inspector = sa.inspect(connection)
            missing = []
            for table in (self.rows, self.offsets):
                if not inspector.has_table(table.name):
                    missing.append(table)
                    continue
                key = inspector.get_pk_constraint(table.name)["constrained_columns"]
                self._check(table, inspector.get_columns(table.name), key)
        return missing

    def _check(self, table: sa.Table, found: Iterable[Any], key: Iterable[str]) -> None:
        wanted, own_key = {column.name for column in table.columns}, {column.name for column in table.primary_key}
        names = {column["name"] for column in found}
        needed = {c["name"] for c in found if not c["nullable"] and c.get("default") is None} - wanted
        if lacks := sorted(wanted - names):
            why = f"it has no column {', '.join(lacks)}"
        elif needed:
            why = f"it wants a value for {', '.join(sorted(needed))}"
        elif set(key) != own_key:
            why = f"its primary key is not ({', '.join(sorted(own_key, reverse=True))})"
        else:
            return
        other = {"line": "data", "data": "line"}[self._column]
        if lacks == [self._column] and other in names:
            why = (
                f"it holds {'lines' if other == 'line' else 'chunks'} (unit={'line' if other == 'line' else 'chunk'!r})"
            )
        raise InvalidRequest(
            f"the table {table.name} of {self.place} does not fit: {why}; name another table (table=…), which is made "
            f"when it is missing, or drop this one"
        )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what SQLAlchemy raises into ours. Its own text has the rows in it, and may have secrets."""
        try:
            yield
        except exc.DBAPIError as error:
            raise self._ours(error) from None
        except exc.TimeoutError:
            raise TryAgain("all connections of its engine are in use") from None

    def _ours(self, error: exc.DBAPIError) -> CmdopError:
        said = (str(error.orig).strip().splitlines() or ["it does not say why"])[0]
        found = (remedy for words, remedy in HOPELESS.items() if re.search(words, said, re.IGNORECASE))
        remedy = next(found, "")
        passing = isinstance(error, (exc.OperationalError, exc.InterfaceError)) or error.connection_invalidated
        if passing and (self._met or not remedy):
            return TryAgain(said)
        if passing and not self.is_file:
            return ConnectFailed(self.place, said, remedy)
        text = f"{self.place} refuses: {said}; {remedy or 'what is there stays, and the next sink goes on behind it'}"
        return CmdopError(text) if self._met else InvalidRequest(text)


def shown(url: sa.URL) -> str:
    """A URL as it may be seen: without the password, and without the query, which may hold one."""
    return url.set(query={}).render_as_string(hide_password=True)


def _engine_of(database: object) -> tuple[sa.Engine, bool]:
    """The engine for a database, and whether it is ours."""
    if isinstance(database, sa.Engine):
        _check_url(database.url, database.dialect)
        return database, False
    if hasattr(database, "sync_engine"):
        raise InvalidRequest(
            "an AsyncEngine cannot be used here: give its database's URL, or an Engine of create_engine()"
        )
    if isinstance(database, PurePath):
        raise InvalidRequest(f"a database is a URL or an Engine, not a path; say 'sqlite:///{database}'")
    if not isinstance(database, (str, sa.URL)):
        raise InvalidRequest(f"a database is a URL or an Engine, not {type(database).__name__}; {LOOKS}")
    try:
        url = sa.make_url(database)
    except (exc.ArgumentError, ValueError):  # their text may have the password in it
        raise InvalidRequest(f"that is no database URL; {LOOKS}") from None
    try:
        dialect = url.get_dialect()
    except exc.ArgumentError:
        kind = {"postgres": "postgresql"}.get(url.get_backend_name(), url.get_backend_name())
        hint = _instead(url, kind) if kind in INSTEAD else LOOKS
        raise InvalidRequest(f"SQLAlchemy knows no {url.drivername}://; {hint}") from None
    _check_url(url, dialect)
    options: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql" and dialect.driver in ("psycopg", "psycopg2"):
        options["connect_args"] = {name: value for name, value in SILENCE.items() if name not in url.query}
    try:
        return sa.create_engine(url, **options), True
    except ModuleNotFoundError as error:
        raise InvalidRequest(
            f"{shown(url)} needs the driver {error.name}, which is not installed; {_instead(url, dialect.name)}"
        ) from None


def _check_url(url: sa.URL, dialect: sa.Dialect | type[sa.Dialect]) -> None:
    """Refuse what cannot work."""
    if dialect.is_async:
        raise InvalidRequest(
            f"{shown(url)} has an asynchronous driver, {dialect.driver}; {_instead(url, dialect.name)}"
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise InvalidRequest(
            "a database in memory is there for one connection only; name a file, as in sqlite:///file.db"
        )


def _instead(url: sa.URL, kind: str) -> str:
    """How to reach such a database."""
    package = PACKAGES.get(kind)
    install = f"`pip install '{package}'` and " if package else ""
    if kind not in INSTEAD:
        return "install it, or name another one of that database in the URL"
    return f"{install}say {shown(url.set(drivername=INSTEAD[kind]))}"


def _text(unfinished: Mapping[str, int | None]) -> str:
    return json.dumps(unfinished, sort_keys=True)
