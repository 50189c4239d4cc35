-- The time by the server's clock, in microseconds since 1970: what a timer is due by.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
