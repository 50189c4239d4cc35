-- How many types of events there are.
SELECT count(*) FROM eventstore_types
