-- Takes the append lock until the transaction ends.
SELECT {schema}.hold()
