-- Checks the structure of the file, and returns at most five problems, or 'ok'.
PRAGMA quick_check(5)
