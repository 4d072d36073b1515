-- What each tenant gets of the flags: a projection of the log. '*' is what everybody else gets.
CREATE TABLE feature_flags (
    tenant_id  TEXT PRIMARY KEY,
    flags      TEXT NOT NULL, -- JSON object
    updated_at TEXT NOT NULL
) STRICT;

PRAGMA user_version = 3;
