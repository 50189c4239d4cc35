-- The number of rows that match.
SELECT count(*) FROM {from} WHERE {conditions}
