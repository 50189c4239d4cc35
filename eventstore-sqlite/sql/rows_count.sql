-- How many rows match.
SELECT count(*) FROM {from} WHERE {conditions}
