-- Gives the dead letters of shadows their new names. Those of a projection of the user begin with another name.
UPDATE eventstore_dead_letters
   SET key = replace(projection, '~beside', '~shadow') || substr(key, length(projection) + 1),
       projection = replace(projection, '~beside', '~shadow')
 WHERE projection GLOB '*@*~beside'
