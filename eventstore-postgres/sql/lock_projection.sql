-- One at a time makes, splits and joins the shards of a projection, also of one that has none yet.
SELECT pg_advisory_xact_lock(hashtextextended($1, '{schema}'::regnamespace::oid::bigint))
