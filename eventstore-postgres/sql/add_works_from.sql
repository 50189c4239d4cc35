-- The oldest release of this library that works with a database that has the migration.
ALTER TABLE {schema}.migrations ADD COLUMN IF NOT EXISTS works_from text NOT NULL DEFAULT '0.1.0'
