-- Gives the dead letters of a shadow its new name.
UPDATE {tables}.dead_letters SET key = $2 || substr(key, length($1) + 1), projection = $2 WHERE projection = $1
