-- P95 latency by endpoint, as PERCENTILE_CONT has it: between two requests, in proportion. Open streams are left out.
-- The `+` keeps SQLite from reading the whole table by the index of endpoints.
WITH ranked AS (
  SELECT
    endpoint,
    request_duration_ms AS ms,
    ROW_NUMBER() OVER (PARTITION BY +endpoint ORDER BY request_duration_ms) - 1 AS place,
    COUNT(*) OVER (PARTITION BY +endpoint) - 1 AS last
  FROM audit_logs
  WHERE timestamp > {since}{tenant}
    AND COALESCE(rpc_method, '') NOT IN ('stream', 'subscriptions/listen')
)
SELECT
  endpoint,
  COUNT(*) AS total_requests,
  SUM(ms * MAX(0, 1 - ABS(place - 0.50 * last))) AS p50_latency,
  SUM(ms * MAX(0, 1 - ABS(place - 0.95 * last))) AS p95_latency,
  SUM(ms * MAX(0, 1 - ABS(place - 0.99 * last))) AS p99_latency
FROM ranked
GROUP BY endpoint
ORDER BY p95_latency DESC, endpoint;
