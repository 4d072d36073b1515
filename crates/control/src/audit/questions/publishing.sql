-- Publishing success rate by platform, which the tool's name says.
SELECT
  CASE
    WHEN tool LIKE '%linkedin%' THEN 'LinkedIn'
    WHEN tool LIKE '%twitter%' THEN 'Twitter'
    WHEN tool LIKE '%facebook%' THEN 'Facebook'
    WHEN tool LIKE '%instagram%' THEN 'Instagram'
    WHEN tool LIKE '%multi_platform%' THEN 'All'
    ELSE 'Other'
  END AS platform,
  COUNT(*) AS total_publishes,
  SUM(outcome IN ('ok', 'input_required')) AS successful,
  SUM(outcome IN ('ok', 'input_required')) * 100.0 / COUNT(*) AS success_rate
FROM audit_logs
WHERE tool LIKE '%publish%'
  AND outcome <> 'cancelled'
  AND timestamp > {since}{tenant}
GROUP BY platform
ORDER BY platform;
