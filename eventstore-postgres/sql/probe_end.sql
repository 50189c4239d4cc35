-- Gives the session back to the pooler.
ROLLBACK
