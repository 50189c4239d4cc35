-- The mark this session was opened with; NULL if it never reached the server.
SELECT current_setting('eventstore.session', true)
