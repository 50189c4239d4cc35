-- The shadow tables with names of release 0.1.
SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '*@*~beside' ORDER BY name
