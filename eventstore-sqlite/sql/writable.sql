-- Changes nothing, and is refused where nothing can be changed.
UPDATE eventstore_identity SET epoch = epoch WHERE false
