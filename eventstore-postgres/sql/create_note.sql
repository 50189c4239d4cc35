-- Holds the log to which the rows in this schema belong, so that another log does not write to them.
CREATE TABLE IF NOT EXISTS {tables}.eventstore_log (
    one    boolean NOT NULL DEFAULT true CONSTRAINT eventstore_log_pk PRIMARY KEY CONSTRAINT eventstore_log_one CHECK (one),
    log    uuid    NOT NULL,
    schema text    NOT NULL
)
