-- Gives a shadow the name of this release. A shadow that has only begun may have no table yet.
ALTER TABLE IF EXISTS {tables}.{old} RENAME TO {new};
