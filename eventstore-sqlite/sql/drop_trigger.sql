-- Takes a trigger of the guard off, in a transaction that puts it back.
DROP TRIGGER {trigger}
