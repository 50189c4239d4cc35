-- A table or view whose name begins like those of this library, in a file without this library's table of migrations;
-- or that table itself, if it has other columns.
SELECT name FROM sqlite_schema
 WHERE type IN ('table', 'view') AND name GLOB 'eventstore_*'
   AND NOT coalesce((SELECT group_concat(name) FROM pragma_table_info('eventstore_migrations'))
                    GLOB 'version,checksum,applied_at*', false)
 ORDER BY name LIMIT 1
