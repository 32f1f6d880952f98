-- Everything that a device keeps. The first schema is number 100: 1 and 2 were those of version 0.1, which is
-- not read any more.
--
-- Columns named `value` are sealed, bound to their table and to their row's key (store/seal.rs). The others
-- stand in clear, and tell a thief of the file what is said below, and how many rows there are, of which
-- sizes and in which order. "Hidden" is an HMAC under the database key, of something that could be guessed.

-- What opens before anything else: `key` (the wrapped database key). Values here are not sealed under the
-- database key.
CREATE TABLE meta (k TEXT PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;

-- The rows of OpenMLS, written by its storage provider only. k: hidden name of the row; v: the MessagePack of
-- the value, sealed. One row per (group, kind) or key package; keys vanish with their row (secure_delete).
CREATE TABLE mls (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;

-- Records by key (store/table.rs).
-- key: a word, the same in every database.
CREATE TABLE setting (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- key: SHA-256 of the token, as the relay has it until it is spent.
CREATE TABLE token (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- key: hidden identity key.
CREATE TABLE contact (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE blocked (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- key: hidden relay and handle.
CREATE TABLE pin (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- key: hidden id of the MLS group.
CREATE TABLE joined (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- key: id of the mailbox, as the relay has it.
CREATE TABLE reading (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE poison (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- key: id of the conversation, which no relay knows.
CREATE TABLE conversation (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE invited (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
-- key: id of the conversation, then the hidden device of a member.
CREATE TABLE receipt (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

-- Records in order (store/table.rs).
-- owner: id of the mailbox; label: post id, once there is one.
CREATE TABLE outbox (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    owner BLOB NOT NULL,
    label BLOB,
    value BLOB NOT NULL,
    UNIQUE (owner, label)
);
CREATE INDEX outbox_in_order ON outbox (owner, row);
-- owner: id of the conversation; label: hidden kind and subject.
CREATE TABLE intent (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    owner BLOB NOT NULL,
    label BLOB,
    value BLOB NOT NULL,
    UNIQUE (owner, label)
);
CREATE INDEX intent_in_order ON intent (owner, row);

-- Key packages of ours that others may have, and when (unix seconds) their secrets are deleted.
CREATE TABLE key_package (reference BLOB PRIMARY KEY, not_after INTEGER NOT NULL) WITHOUT ROWID;

-- Our chain at the newest seqs of each mailbox, to check what members refer to: hashes of what the relay has.
CREATE TABLE chain (
    mailbox BLOB NOT NULL,
    seq INTEGER NOT NULL,
    chain BLOB NOT NULL,
    PRIMARY KEY (mailbox, seq)
) WITHOUT ROWID;

-- The history (conversation/history.rs). name: hidden person and message id, by which repeats are recognised;
-- place and seq: where it stands in the mailbox, past every number while it is queued; class: 0 entry, 1 change,
-- 2 quiet; target: hidden name of what a change alters.
CREATE TABLE entry (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation BLOB NOT NULL,
    name BLOB NOT NULL,
    place INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    class INTEGER NOT NULL,
    target BLOB,
    unread INTEGER NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (conversation, name)
);
CREATE INDEX entry_in_order ON entry (conversation, place, seq, row);
CREATE INDEX entry_by_target ON entry (conversation, target) WHERE target IS NOT NULL;
CREATE INDEX entry_unread ON entry (conversation) WHERE unread = 1;
