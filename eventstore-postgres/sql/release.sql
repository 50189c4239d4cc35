-- Ends the savepoint of a statement that succeeded.
RELEASE SAVEPOINT eventstore
