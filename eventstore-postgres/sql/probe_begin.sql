-- Keeps the session of a pooler while the statements in it are examined.
BEGIN
