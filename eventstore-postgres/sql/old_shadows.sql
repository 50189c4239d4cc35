-- What is known of shadows under the names that release 0.1 gave them.
SELECT key FROM {tables}.projections WHERE key LIKE '%@%~beside' ORDER BY key
