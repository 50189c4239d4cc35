-- How this connection waits for the disk: 2 is FULL.
PRAGMA synchronous
