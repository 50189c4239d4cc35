-- Removes the snapshots of states by tag, `course:rust`. The boundary of a stream is `course-rust`, and its key may
-- have a colon.
DELETE FROM eventstore_snapshots
 WHERE instr(boundary, ':') > 0 AND (instr(boundary, '-') = 0 OR instr(boundary, ':') < instr(boundary, '-'))
