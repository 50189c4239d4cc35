-- Sets a savepoint before a statement whose failure must not abort the transaction.
SAVEPOINT eventstore
