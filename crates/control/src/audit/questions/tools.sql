-- Success and latency by tool. A call that its client gave up is in neither.
-- The `+` keeps SQLite from reading the whole table by the index of tools.
WITH ranked AS (
  SELECT
    tool,
    outcome,
    request_duration_ms AS ms,
    ROW_NUMBER() OVER (PARTITION BY +tool ORDER BY request_duration_ms) - 1 AS place,
    COUNT(*) OVER (PARTITION BY +tool) - 1 AS last
  FROM audit_logs
  WHERE timestamp > {since}{tenant}
    AND tool IS NOT NULL
    AND outcome <> 'cancelled'
)
SELECT
  tool,
  COUNT(*) AS total_calls,
  SUM(outcome IN ('ok', 'input_required')) AS successful,
  SUM(outcome IN ('ok', 'input_required')) * 100.0 / COUNT(*) AS success_rate,
  AVG(ms) AS avg_latency,
  SUM(ms * MAX(0, 1 - ABS(place - 0.95 * last))) AS p95_latency
FROM ranked
GROUP BY tool
ORDER BY success_rate, tool;
