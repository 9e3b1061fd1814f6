"""The tables as version 0.1.0 made them (schema 1), word for word: files like these are in the field."""

OUTBOX = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE own_epoch (
    epoch TEXT PRIMARY KEY, number INTEGER NOT NULL, next_seq INTEGER NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE counter (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    next_position INTEGER NOT NULL, held_rows INTEGER NOT NULL, held_bytes INTEGER NOT NULL, age_s REAL NOT NULL
);
INSERT INTO counter VALUES (1, 1, 0, 0, 0);
CREATE TABLE entry (
    position INTEGER PRIMARY KEY,
    lane INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,
    blob TEXT,
    bytes INTEGER NOT NULL,
    born_s INTEGER NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX entry_by_lane ON entry (lane, position);
CREATE TABLE blob (sha256 TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE minted (
    origin TEXT, epoch TEXT, seq INTEGER NOT NULL, PRIMARY KEY (origin, epoch)
) WITHOUT ROWID;
"""
STORE = """
CREATE TABLE stream (
    no INTEGER PRIMARY KEY, device TEXT NOT NULL, epoch TEXT NOT NULL,
    watermark INTEGER NOT NULL, ahead TEXT NOT NULL, UNIQUE (device, epoch)
);
CREATE TABLE answer (
    stream INTEGER, seq INTEGER, position INTEGER NOT NULL, rows INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (stream, seq)
) WITHOUT ROWID;
CREATE TABLE quarantine (
    no INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL
);
"""
SETTLED = """
CREATE TABLE settled (
    epoch TEXT, lane INTEGER, first INTEGER, last INTEGER NOT NULL, PRIMARY KEY (epoch, lane, first)
) WITHOUT ROWID;
CREATE TABLE link (one INTEGER PRIMARY KEY CHECK (one = 1), state TEXT NOT NULL, since_wall_ns INTEGER NOT NULL,
    last_success_wall_ns INTEGER, rows_per_s REAL NOT NULL);
INSERT INTO link VALUES (1, 'unknown', 0, NULL, 0);
"""
BURIED = """
CREATE TABLE buried (
    epoch TEXT, position INTEGER, lane INTEGER NOT NULL, seq_epoch TEXT NOT NULL, seq INTEGER NOT NULL,
    reason TEXT NOT NULL, body BLOB NOT NULL, told INTEGER NOT NULL, PRIMARY KEY (epoch, position)
) WITHOUT ROWID;
"""
LEDGER = """
CREATE TABLE stream (
    id INTEGER PRIMARY KEY, site TEXT NOT NULL, origin TEXT NOT NULL, epoch TEXT NOT NULL,
    minted INTEGER, highest INTEGER NOT NULL DEFAULT 0, UNIQUE (site, origin, epoch)
);
CREATE TABLE event (
    position INTEGER PRIMARY KEY, site TEXT NOT NULL, stream INTEGER NOT NULL REFERENCES stream, seq INTEGER NOT NULL,
    type TEXT NOT NULL, digest BLOB NOT NULL, base TEXT, body TEXT NOT NULL, arrived_ns INTEGER NOT NULL,
    UNIQUE (stream, seq)
);
CREATE INDEX result ON event (site, position) WHERE type = 'io.millrace.result.v1';
CREATE TABLE span (
    stream INTEGER NOT NULL REFERENCES stream, kind TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (stream, kind, first)
) WITHOUT ROWID;
CREATE TABLE refused (site TEXT PRIMARY KEY, duplicates INTEGER NOT NULL, conflicts INTEGER NOT NULL) WITHOUT ROWID;
"""
SPOOL_DB = OUTBOX
GATEWAY_DB = OUTBOX + STORE
SYNC_DB = SETTLED + BURIED
LEDGER_DB = LEDGER
