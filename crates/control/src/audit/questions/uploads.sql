-- Document upload success rate.
SELECT
  COUNT(*) AS total_uploads,
  SUM(outcome IN ('ok', 'input_required')) AS successful,
  SUM(outcome IN ('ok', 'input_required')) * 100.0 / COUNT(*) AS success_rate
FROM audit_logs
WHERE tool = 'upload_documents'
  AND outcome <> 'cancelled'
  AND timestamp > {since}{tenant};
