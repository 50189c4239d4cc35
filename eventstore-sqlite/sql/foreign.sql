-- A table or view with a name of ours, before any of ours was made; or our list of migrations, if it is not like ours.
SELECT name FROM sqlite_schema
 WHERE type IN ('table', 'view') AND name GLOB 'eventstore_*'
   AND NOT coalesce((SELECT group_concat(name) FROM pragma_table_info('eventstore_migrations'))
                    GLOB 'version,checksum,applied_at*', false)
 ORDER BY name LIMIT 1
