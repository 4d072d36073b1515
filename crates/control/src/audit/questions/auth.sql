-- Authentication success: neither 401 nor 403.
SELECT
  COUNT(*) AS total_auth_attempts,
  SUM(status_code NOT IN (401, 403)) AS successful,
  SUM(status_code NOT IN (401, 403)) * 100.0 / COUNT(*) AS success_rate
FROM audit_logs
WHERE timestamp > {since}{tenant};
