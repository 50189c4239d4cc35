-- Ends the transaction of the script.
COMMIT
