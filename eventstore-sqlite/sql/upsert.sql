-- Writes a row, whether it is there or not.
INSERT INTO {table} (key, {columns}) VALUES (?1, {values})
    ON CONFLICT (key) DO UPDATE SET {updates}
