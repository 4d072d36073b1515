-- The log: one row a record, positions consecutive from 1.
CREATE TABLE records (
    position INTEGER PRIMARY KEY,
    epoch    INTEGER NOT NULL,
    at       TEXT    NOT NULL,
    actor    TEXT    NOT NULL,
    kind     TEXT    NOT NULL,
    version  INTEGER NOT NULL,
    body     TEXT    NOT NULL
) STRICT;

-- Who may append: the holder of the highest epoch.
CREATE TABLE writer (
    one   INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL
) STRICT;

INSERT INTO writer (one, epoch) VALUES (1, 0);

-- "SerL"
PRAGMA application_id = 0x5365724C;
PRAGMA user_version = 1;
