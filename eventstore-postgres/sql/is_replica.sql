-- Whether the server is a standby, which may have less of the log than there is.
SELECT pg_is_in_recovery()
