-- The tables that release 0.1 built beside others.
SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB '*@*~beside' ORDER BY name
