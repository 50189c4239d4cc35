-- Whether the server is a standby, which may lack recent events.
SELECT pg_is_in_recovery()
