-- Before a statement whose failure is no failure of the transaction.
SAVEPOINT eventstore
