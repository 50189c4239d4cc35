-- Lets the commit of this transaction return before it is on disk.
SET LOCAL synchronous_commit = off
