-- The shadows that are known by the names of release 0.1.
SELECT key FROM {tables}.projections WHERE key LIKE '%@%~beside' ORDER BY key
