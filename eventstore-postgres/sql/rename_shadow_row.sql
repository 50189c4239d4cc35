-- What is known of a shadow, under its new name.
UPDATE {tables}.projections SET key = $2 WHERE key = $1
