-- The mark this session was opened with; NULL if it did not reach the server.
SELECT current_setting('eventstore.session', true)
