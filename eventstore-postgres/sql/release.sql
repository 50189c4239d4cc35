-- The statement since the savepoint has succeeded.
RELEASE SAVEPOINT eventstore
