-- Guard pass rate. Answers are not recorded: a guard that does not let something pass has to answer with an error (`isError`).
SELECT
  COUNT(*) AS total_guard_runs,
  SUM(outcome IN ('ok', 'input_required')) AS passed,
  SUM(outcome IN ('ok', 'input_required')) * 100.0 / COUNT(*) AS pass_rate
FROM audit_logs
WHERE tool = 'run_guards'
  AND outcome <> 'cancelled'
  AND timestamp > {since}{tenant};
