-- Multi-candidate generation latency.
WITH ranked AS (
  SELECT
    request_duration_ms AS ms,
    ROW_NUMBER() OVER (ORDER BY request_duration_ms) - 1 AS place,
    COUNT(*) OVER () - 1 AS last
  FROM audit_logs
  WHERE tool = 'generate_multi_candidate'
    AND outcome <> 'cancelled'
    AND timestamp > {since}{tenant}
)
SELECT
  COUNT(*) AS total_generations,
  SUM(ms * MAX(0, 1 - ABS(place - 0.95 * last))) AS p95_latency,
  AVG(ms) AS avg_latency
FROM ranked;
