-- Analytics sync success rate.
SELECT
  COUNT(*) AS total_syncs,
  SUM(outcome IN ('ok', 'input_required')) AS successful,
  SUM(outcome IN ('ok', 'input_required')) * 100.0 / COUNT(*) AS success_rate
FROM audit_logs
WHERE tool = 'sync_post_analytics'
  AND outcome <> 'cancelled'
  AND timestamp > {since}{tenant};
