-- What opens before anything else: `key` (the wrapped database key). Values here are not sealed under the database key.
CREATE TABLE meta (
    k TEXT PRIMARY KEY,
    v BLOB NOT NULL
) WITHOUT ROWID;

-- The rows of OpenMLS, written by session/storage.rs only. k: HMAC-SHA256 of the row's name under the database key;
-- v: the MessagePack of the value, sealed. One row per (group, kind) or key package; keys vanish with their row
-- (secure_delete).
CREATE TABLE mls (
    k BLOB PRIMARY KEY,
    v BLOB NOT NULL
) WITHOUT ROWID;
