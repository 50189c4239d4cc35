-- Keeps all others from appending until the transaction ends.
SELECT {schema}.hold()
