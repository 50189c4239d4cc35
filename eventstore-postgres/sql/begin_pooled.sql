-- Begins a transaction behind a pooler that forgets prepared statements: the session is anybody's, what others have
-- prepared on it may have the names of ours, and numbers may be written with too few digits.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
DEALLOCATE ALL;
SET LOCAL extra_float_digits = 1
