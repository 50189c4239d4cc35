-- Names. A shadow is `balance@1~shadow`; release 0.1 called it `balance@1~beside`. Its table and the tables of the engine
-- (which get the prefix eventstore_) are renamed by the code that runs with this step: they exist only where a processor
-- has run, and a table of the user may have the same name.

UPDATE eventstore_checkpoints SET projection = replace(projection, '~beside', '~shadow') WHERE projection GLOB '*@*~beside';
