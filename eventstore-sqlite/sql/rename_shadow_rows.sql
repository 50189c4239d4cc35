-- Gives the records of shadows their new names.
UPDATE eventstore_projections SET key = replace(key, '~beside', '~shadow') WHERE key GLOB '*@*~beside'
