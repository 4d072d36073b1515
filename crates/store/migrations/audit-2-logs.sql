-- One row a request. `tool`, `service`, `version`, `rpc_method` and `outcome` say what no other column does: most calls fail
-- inside an HTTP 200, and a tool's name belongs in no error message.
CREATE TABLE audit_logs (
    id                  TEXT    PRIMARY KEY, -- UUID, version 7
    timestamp           TEXT    NOT NULL,    -- UTC, YYYY-MM-DD HH:MM:SS.mmm
    tenant_id           TEXT    NOT NULL,    -- empty where nobody said
    user_id             TEXT,
    api_key_hash        TEXT    NOT NULL,    -- empty without a key
    endpoint            TEXT    NOT NULL,    -- the path, without its query
    method              TEXT    NOT NULL,
    status_code         INTEGER NOT NULL,
    request_duration_ms INTEGER NOT NULL,
    ip_address          TEXT,
    user_agent          TEXT,
    error_message       TEXT,
    service             TEXT,
    version             TEXT,
    rpc_method          TEXT,
    tool                TEXT,
    outcome             TEXT    NOT NULL,
    arguments           TEXT
) STRICT;

-- Each ends with the time, since every question has a window. Errors are few and asked for often: theirs is partial.
CREATE INDEX idx_tenant_timestamp ON audit_logs (tenant_id, timestamp);
CREATE INDEX idx_timestamp ON audit_logs (timestamp);
CREATE INDEX idx_endpoint ON audit_logs (endpoint, timestamp);
CREATE INDEX idx_status ON audit_logs (status_code, timestamp) WHERE status_code >= 400;
CREATE INDEX idx_tool ON audit_logs (tool, timestamp) WHERE tool IS NOT NULL;

PRAGMA user_version = 2;
