-- The applied migrations. A log of release 0.1 lacks the column works_from, hence the asterisk.
SELECT * FROM eventstore_migrations ORDER BY version
