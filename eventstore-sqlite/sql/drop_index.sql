-- Drops an index.
DROP INDEX {index};
