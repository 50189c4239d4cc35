-- IMMEDIATE: a read that becomes a write could fail half-way.
BEGIN IMMEDIATE
