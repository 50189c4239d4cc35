-- Removes the snapshots of states by tag: `course:rust`, whatever comes after the colon. That of a stream is `course-rust`.
DELETE FROM eventstore_snapshots
 WHERE instr(boundary, ':') > 0 AND (instr(boundary, '-') = 0 OR instr(boundary, ':') < instr(boundary, '-'))
