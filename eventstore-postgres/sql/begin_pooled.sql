-- Begins a transaction behind a pooler that forgets prepared statements. The session is shared: statements that other
-- clients have prepared may have the names of the store's, and floats may be set to be written with too few digits.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
DEALLOCATE ALL;
SET LOCAL extra_float_digits = 1
