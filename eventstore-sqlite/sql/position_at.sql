-- The last position recorded at or before an instant, and the head. A binary search works, because positions have no
-- gaps and time never goes back along them.
WITH RECURSIVE search (low, high) AS (
    SELECT 0, coalesce(max(position), 0) FROM eventstore_events
    UNION ALL
    SELECT iif(middle.recorded_at <= ?1, middle.position, low), iif(middle.recorded_at <= ?1, high, middle.position - 1)
      FROM search
      JOIN eventstore_events AS middle ON middle.position = (low + high + 1) / 2
     WHERE low < high
)
SELECT low, (SELECT coalesce(max(position), 0) FROM eventstore_events) FROM search WHERE low = high
