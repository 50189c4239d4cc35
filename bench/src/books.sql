-- Nothing is made of the log yet: no rows, no checkpoints; and the tables to fill by hand are empty.
DROP TABLE IF EXISTS "balance@1", projections, by_hand, by_hand_checkpoint CASCADE;
DELETE FROM checkpoints;
CREATE TABLE by_hand (
    key      text COLLATE "C" CONSTRAINT by_hand_pk PRIMARY KEY,
    balance  bigint,
    deposits bigint,
    last     text COLLATE "C"
);
CREATE TABLE by_hand_checkpoint (position bigint NOT NULL);
INSERT INTO by_hand_checkpoint VALUES (0);
