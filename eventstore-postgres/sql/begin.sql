-- Begins a transaction. Isolation and access are named, because a session may have any defaults.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE
