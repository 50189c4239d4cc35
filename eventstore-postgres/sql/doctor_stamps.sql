-- The last position that is stamped no more than $1 seconds ahead of the clock: a binary search, as in `position_at`,
-- but without a wait for open appends.
WITH RECURSIVE search (low, high, late) AS (
    SELECT 0::bigint, coalesce(max(position), 0), clock_timestamp() + make_interval(secs => $1) FROM {schema}.events
     UNION ALL
    SELECT CASE WHEN middle.recorded_at <= late THEN middle.position ELSE low END,
           CASE WHEN middle.recorded_at <= late THEN high ELSE middle.position - 1 END, late
      FROM search JOIN {schema}.events AS middle ON middle.position = (low + high + 1) / 2
     WHERE low < high
)
SELECT low FROM search WHERE low = high
