"""The SQLite files under everything durable: one process writes a file and a lock proves it; others only read.

A commit is on stable storage when it returns (WAL, synchronous=FULL). Only the writer checkpoints.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from sqlite3 import Connection
from threading import Timer
from typing import Any, NoReturn, Self
from urllib.parse import quote

from millrace import crashpoints
from millrace.birth import birth
from millrace.blobs import FULL, NoRoom, StorageFailed, make_folder, sync_folder
from millrace.row_sums import sql_row_sum

__all__ = [
    "CommitFailed",
    "Connection",
    "Damaged",
    "Database",
    "Locked",
    "NewerSchema",
    "Ruin",
    "Viewer",
    "find_fault",
    "insert",
    "locked",
    "open_reader",
    "storage_errors",
]

log = logging.getLogger(__name__)

APPLICATION_ID = 0x4D494C4C  # "MILL"
SCHEMA_VERSION = 3
"""One number for all files of a release; version 0.1.0 wrote 1; since 3 rows hold readings in short."""
CHECKPOINT_PAGES = 1000
WAL_LIMIT_BYTES = 8 << 20
MAX_SCHEMA_VERSION = 1000
"""A higher number in a file is no newer program's but damage."""
PAGE_BYTES = 4096
_MAYBE_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
TAILS = ("", "-wal", "-shm")
"""What belongs to a database: itself, its log, and the log's index."""
_AT_ONCE = (32, 8, 1)
"""Rows that one statement inserts."""
_PRAGMAS = (
    f"page_size = {PAGE_BYTES}",
    "journal_mode = WAL",
    "synchronous = FULL",
    f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
    f"journal_size_limit = {WAL_LIMIT_BYTES}",
    "secure_delete = off",
    "cell_size_check = on",
    "trusted_schema = off",
    "temp_store = memory",
)


class Locked(Exception):
    """Another process writes this file; exit 75 names it."""


class NewerSchema(Exception):
    """The file was written by a newer program; it is left untouched. Exit 78."""


class Damaged(Exception):
    """The file is no database, or the disk has spoilt it. Its owner, started again, sets it aside and salvages it."""

    def __init__(self, why: str, path: Path | None = None) -> None:
        super().__init__(why)
        self.path = path


class CommitFailed(StorageFailed):
    """The disk failed while it was to sync a commit: what was written may be found there at the next start."""


class _Watched(sqlite3.Connection):
    """A connection that says Damaged where SQLite finds damage, and marks the file for its owner's next start."""

    path: Path

    def execute(self, *given: Any) -> sqlite3.Cursor:
        return self.cursor(_WatchedCursor).execute(*given)

    def executemany(self, *given: Any) -> sqlite3.Cursor:
        return self.cursor(_WatchedCursor).executemany(*given)

    def executescript(self, *given: Any) -> sqlite3.Cursor:
        with _marking(self):
            return super().executescript(*given)


class _WatchedCursor(sqlite3.Cursor):
    # A context manager around each call would cost more than many a call: it is entered where one has failed.

    def execute(self, *given: Any) -> Self:
        try:
            return super().execute(*given)
        except _MAYBE_DAMAGE:
            with _marking(self.connection):
                raise

    def executemany(self, *given: Any) -> Self:
        with _marking(self.connection):
            return super().executemany(*given)

    def fetchone(self) -> Any:
        try:
            return super().fetchone()
        except _MAYBE_DAMAGE:
            with _marking(self.connection):
                raise

    def fetchall(self) -> list[Any]:
        try:
            return super().fetchall()
        except _MAYBE_DAMAGE:
            with _marking(self.connection):
                raise

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except _MAYBE_DAMAGE:
            with _marking(self.connection):
                raise


class Database:
    """The one connection that writes and checkpoints a file. Opening it creates it and takes the lock."""

    def __init__(
        self,
        path: Path,
        steps: Sequence[str],
        application_id: int = APPLICATION_ID,
        *,
        max_bytes: int | None = None,
    ) -> None:
        """Open or create the file; `steps[n]` is the SQL that takes it from schema n to n + 1; it may use `row_sum`.

        A file of an older schema is taken through the steps that it lacks, a new one through all, in one transaction.
        It grows to `max_bytes` at most: then StorageFailed is of this limit's making, and deleting always works.
        Errors: Locked, NewerSchema, StorageFailed, Damaged.
        """
        self.path = path
        with ExitStack() as undo, storage_errors(path):
            make_folder(path.parent)
            undo.callback(os.close, _take_lock(path))
            _refuse_newer(path)
            self.connection = sqlite3.connect(
                path, isolation_level=None, timeout=5, check_same_thread=False, factory=_Watched
            )
            undo.callback(self.connection.close)
            self.connection.path = path
            self.connection.text_factory = _lenient_text
            self.connection.create_function("row_sum", -1, sql_row_sum, deterministic=True)
            for pragma in _PRAGMAS:
                self.connection.execute(f"PRAGMA {pragma}")
            if max_bytes is not None:
                self.connection.execute(f"PRAGMA max_page_count = {max_bytes // PAGE_BYTES}")
            _migrate(self.connection, steps, application_id)
            self._close = undo.pop_all().close

    def close(self) -> None:
        """Close the file and give the lock back."""
        self._close()

    def used_bytes(self) -> int:
        """Return the size of the file without its free pages."""
        ((pages,),) = self.connection.execute("PRAGMA page_count").fetchall()
        ((free,),) = self.connection.execute("PRAGMA freelist_count").fetchall()
        return int(pages - free) * PAGE_BYTES

    def spoilt(self, why: str) -> NoReturn:
        """Say that what the file holds cannot be right: raise Damaged, and mark it."""
        with _marking(self.connection):
            raise Damaged(f"{self.path}: {why}", self.path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that is done inside, on stable storage, or nothing; StorageFailed if the disk refuses.

        Where it is a CommitFailed, all or nothing is known at the next start.
        """
        try:
            with storage_errors(self.path):
                self.connection.execute("BEGIN IMMEDIATE")
                yield
                crashpoints.reached("database.committing")
                self._commit()
                crashpoints.reached("database.committed")
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")

    def _commit(self) -> None:
        try:
            self.connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
                raise CommitFailed(f"{self.path}: {error}") from error
            raise


def insert(connection: Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows of one width in their order; `into` is the statement up to VALUES.

    Many go with one statement: at the end of each, sqlite3 lets any thread that computes have the interpreter, and
    waits for it.
    """
    at = 0
    for count in _AT_ONCE:
        if len(rows) - at < count:
            continue
        places = f"({', '.join('?' * len(rows[0]))})"
        sql = f"{into} VALUES {', '.join([places] * count)}"
        while len(rows) - at >= count:
            connection.execute(sql, [value for row in rows[at : at + count] for value in row])
            at += count


class Viewer:
    """Another program's view of a file: opened when it is there, again when it is another file, no cursor held open."""

    def __init__(self, path: Path, sign_of_life: str) -> None:
        """`sign_of_life` is a statement that works as soon as the file is made."""
        self.path, self._sign_of_life = path, sign_of_life
        self._connection: Connection | None = None
        self._born = ""

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def all(self, sql: str, values: Sequence[int | str] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query; none while the file is not there. Errors: Damaged."""
        try:
            born = birth(self.path)
        except OSError:
            self.close()
            return []
        if born != self._born:
            self.close()
        with _damage(self.path):
            if self._connection is None:
                self._connection, self._born = open_reader(self.path, self._sign_of_life), born
            return [] if self._connection is None else self._connection.execute(sql, values).fetchall()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what a disk that is full, failing or read-only raises inside into StorageFailed (NoRoom), or Damaged."""
    try:
        with _damage(path):
            yield
    except (OSError, sqlite3.OperationalError) as error:
        is_full = error.errno in FULL if isinstance(error, OSError) else error.sqlite_errorcode == sqlite3.SQLITE_FULL
        raise (NoRoom if is_full else StorageFailed)(f"{path}: {error}") from error


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # its subclasses speak of the statement or the disk
            raise
        raise Damaged(f"{path}: {error}", path) from error
    except UnicodeDecodeError as error:  # sqlite3 cannot say what SQLite quotes of a damaged schema
        raise Damaged(f"{path}: {error.object!r}", path) from error


class Ruin:
    """What is left of a damaged file, read-only: what can be read of it is, and the file stays as it is."""

    def __init__(self, path: Path, *, is_lent: bool = False) -> None:
        """`is_lent`: its first page is another file's, and its rows may be older than that page's schema."""
        self._path, self.is_lent = path, is_lent
        self._connection: Connection | None = None

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()

    def query(self, sql: str, values: Sequence[int | str] = ()) -> list[tuple[Any, ...]] | None:
        """Return the rows, or None where damage is in the way."""
        try:
            return self._open().execute(sql, values).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            return None

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """Yield rows up to the first that cannot be read."""
        try:
            yield from self._open().execute(sql)
        except (sqlite3.Error, UnicodeDecodeError):
            return

    def _open(self) -> Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True, isolation_level=None)
            self._connection.text_factory = _lenient_text
        return self._connection


def find_fault(path: Path, budget_s: float) -> str | None:
    """Read a file's structure, read-only, for as long as the budget lasts; return what does not hold together."""
    if not path.exists():
        return None
    if (fault := _header_fault(path)) is not None:
        return fault
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, check_same_thread=False)
    except sqlite3.OperationalError:  # what keeps it from being opened will keep its owner too, who says so
        return None
    is_late: list[bool] = []

    def interrupt() -> None:
        is_late.append(True)
        connection.interrupt()

    timer = Timer(budget_s, interrupt)
    timer.start()
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:  # interrupted, or the disk refuses
        return None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return str(error)
    finally:
        timer.cancel()
        timer.join()
        connection.close()
    if is_late:
        return None
    if not 0 <= version <= MAX_SCHEMA_VERSION or (tables and not version):
        return f"its schema has the number {version}"
    return None if found == "ok" else " ".join(str(found).split())


def _header_fault(path: Path) -> str | None:
    """Return which number in the header is none that SQLite has written, where SQLite would call the file too new."""
    with path.open("rb") as file:
        header = file.read(48)
    if len(header) < 48 or not header.startswith(b"SQLite format 3\0"):
        return None  # if that is damage, SQLite says so itself
    versions, schema_format = header[18:20], int.from_bytes(header[44:48], "big")
    if any(version not in (1, 2) for version in versions) or schema_format > 4:
        return f"its header has the versions {list(versions)} and the schema format {schema_format}"
    return None


def open_reader(path: Path, sign_of_life: str) -> Connection | None:
    """Return a read-only connection that never checkpoints, or None while the file is not made yet."""
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, timeout=5, check_same_thread=False
        )
    except sqlite3.OperationalError:
        return None
    try:
        connection.text_factory = _lenient_text
        connection.execute("PRAGMA query_only = 1")
        connection.execute(sign_of_life)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            return None
        raise
    return connection


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the sole right to write `path` inside. Errors: Locked, OSError."""
    descriptor = _take_lock(path)
    try:
        yield
    finally:
        os.close(descriptor)


def mark_of(path: Path) -> Path:
    """Return the file that says, by being there, that damage was found in `path`."""
    return path.with_name(path.name + ".heal")


def mark_damaged(path: Path) -> None:
    """Have the next start heal the file. Errors: OSError."""
    mark_of(path).touch(0o600)  # empty: there may be no room
    sync_folder(path.parent)


@contextmanager
def _marking(connection: sqlite3.Connection) -> Iterator[None]:
    assert isinstance(connection, _Watched)
    try:
        with _damage(connection.path):
            yield
    except Damaged:
        try:
            mark_damaged(connection.path)
        except OSError as error:
            log.error("damage_not_marked file=%s error=%s", connection.path, error)
        raise


def _lenient_text(raw: bytes) -> str:
    # Damaged text is found by its row's checksum; it must not make the rows around it unreadable.
    return raw.decode(errors="replace")


def _take_lock(path: Path) -> int:
    """Return a descriptor that holds the sole right to write `path`; Locked names the process that has it."""
    lock = path.with_name(path.name + ".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise Locked(f"{path} is written by process {holder}; stop that one first, or use another state_dir") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _migrate(connection: Connection, steps: Sequence[str], application_id: int) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < SCHEMA_VERSION:
        connection.executescript(
            f"BEGIN IMMEDIATE; {' '.join(steps[version:])} PRAGMA application_id = {application_id};"
            f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )


def _refuse_newer(path: Path) -> None:
    """Raise NewerSchema without a writer's connection, whose mere opening and closing would change the file."""
    connection = open_reader(path, "PRAGMA user_version")
    if connection is None:
        return
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    if SCHEMA_VERSION < version <= MAX_SCHEMA_VERSION:
        raise NewerSchema(
            f"{path} was written by a newer Millrace (schema {version}, this program knows {SCHEMA_VERSION});"
            " run that one, or use another state_dir"
        )
