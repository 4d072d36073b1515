-- Sealed counts: one packed row a rollout, node and block. AUTOINCREMENT, so
-- that a sequence number a reader remembers is never given to another block.
CREATE TABLE blocks (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    rollout     TEXT    NOT NULL,
    node        TEXT    NOT NULL,
    incarnation TEXT    NOT NULL,
    block       INTEGER NOT NULL,
    at_us       INTEGER NOT NULL,
    bytes       BLOB    NOT NULL,
    UNIQUE (rollout, node, incarnation, block)
) STRICT;

-- An index ends with the row's sequence: this one serves reading in order.
CREATE INDEX blocks_by_rollout ON blocks (rollout);
CREATE INDEX blocks_by_time ON blocks (at_us);

-- "SerB"
PRAGMA application_id = 0x53657242;
PRAGMA user_version = 1;
