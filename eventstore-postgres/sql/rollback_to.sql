-- Undoes a statement that failed behind a savepoint.
ROLLBACK TO SAVEPOINT eventstore
