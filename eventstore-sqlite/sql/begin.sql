-- IMMEDIATE takes the write lock at once: a read that becomes a write could fail half-way.
BEGIN IMMEDIATE
