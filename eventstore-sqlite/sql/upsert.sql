-- Writes a row, new or existing.
INSERT INTO {table} (key, {columns}) VALUES (?1, {values})
    ON CONFLICT (key) DO UPDATE SET {updates}
