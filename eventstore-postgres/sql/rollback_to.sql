-- As if the statement since the savepoint had not been.
ROLLBACK TO SAVEPOINT eventstore
