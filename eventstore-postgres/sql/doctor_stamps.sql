-- The last position that is not stamped ahead of the clock by more than $1 seconds. As the function does it, without a wait.
WITH RECURSIVE search (low, high, late) AS (
    SELECT 0::bigint, coalesce(max(position), 0), clock_timestamp() + make_interval(secs => $1) FROM {schema}.events
     UNION ALL
    SELECT CASE WHEN middle.recorded_at <= late THEN middle.position ELSE low END,
           CASE WHEN middle.recorded_at <= late THEN high ELSE middle.position - 1 END, late
      FROM search JOIN {schema}.events AS middle ON middle.position = (low + high + 1) / 2
     WHERE low < high
)
SELECT low FROM search WHERE low = high
