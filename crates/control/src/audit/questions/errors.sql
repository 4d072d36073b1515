-- Error rate by endpoint. `failed_inside` are calls that failed inside an HTTP 200: tool errors and JSON-RPC errors.
-- The `+` keeps SQLite from reading the whole table by the index of endpoints.
SELECT
  endpoint,
  COUNT(*) AS total_requests,
  SUM(status_code >= 400) AS errors,
  SUM(status_code >= 400) * 100.0 / COUNT(*) AS error_rate,
  SUM(status_code < 400 AND outcome IN ('tool_error', 'rpc_error', 'timeout', 'transport')) AS failed_inside
FROM audit_logs
WHERE timestamp > {since}{tenant}
GROUP BY +endpoint
ORDER BY error_rate DESC, endpoint;
