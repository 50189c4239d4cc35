-- The oldest release of this library that works with a database that has the migration.
ALTER TABLE eventstore_migrations ADD COLUMN works_from TEXT NOT NULL DEFAULT '0.1.0'
