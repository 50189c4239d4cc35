-- Drops a trigger of the guard, in a transaction that creates it again.
DROP TRIGGER {trigger}
