-- A shadow gets a name of this release. It may have been begun, and have no table yet.
ALTER TABLE IF EXISTS {tables}.{old} RENAME TO {new};
