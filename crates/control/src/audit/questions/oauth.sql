-- OAuth success rate.
SELECT
  COUNT(*) AS total_oauth_attempts,
  SUM(outcome IN ('ok', 'input_required')) AS successful,
  SUM(outcome IN ('ok', 'input_required')) * 100.0 / COUNT(*) AS success_rate
FROM audit_logs
WHERE tool LIKE '%oauth%'
  AND outcome <> 'cancelled'
  AND timestamp > {since}{tenant};
