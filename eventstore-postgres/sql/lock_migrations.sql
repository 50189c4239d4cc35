-- One node at a time migrates; the schema may not be there yet, so its name is the key.
SELECT pg_advisory_xact_lock(1163088690, hashtext($1))
