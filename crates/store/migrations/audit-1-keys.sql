-- The keys, for those who ask in SQL: a projection of the log, with what the log does not keep, the last use. Secrets are in
-- neither. Times are UTC, `YYYY-MM-DD HH:MM:SS.mmm`, so that they compare with datetime('now', ...).
CREATE TABLE api_keys (
    key_hash     TEXT    PRIMARY KEY,
    tenant_id    TEXT    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('admin', 'user', 'read_only')),
    scopes       TEXT    NOT NULL, -- JSON array
    created_at   TEXT    NOT NULL,
    expires_at   TEXT    NOT NULL,
    revoked      INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1)),
    revoked_at   TEXT,
    last_used_at TEXT,
    key_id       TEXT    NOT NULL, -- the part of the key that is no secret
    name         TEXT    NOT NULL
) STRICT;

CREATE INDEX idx_api_keys_tenant ON api_keys (tenant_id);
CREATE INDEX idx_api_keys_expires ON api_keys (expires_at);
CREATE INDEX idx_api_keys_revoked ON api_keys (revoked) WHERE revoked = 1;

-- "SerA"
PRAGMA application_id = 0x53657241;
PRAGMA user_version = 1;
