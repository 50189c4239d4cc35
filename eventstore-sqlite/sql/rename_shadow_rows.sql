-- What is known of shadows, under their new names.
UPDATE eventstore_projections SET key = replace(key, '~beside', '~shadow') WHERE key GLOB '*@*~beside'
