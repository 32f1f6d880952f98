-- What the sync engine keeps. Columns named `value` are sealed (store/seal.rs); names are hidden (HMAC) or random ids.
-- In clear are: how many rows there are, mailbox and conversation ids, seqs, and the order of messages.
CREATE TABLE setting (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE token (hash BLOB PRIMARY KEY, drawn INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE key_package (reference BLOB PRIMARY KEY, not_after INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE contact (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE reading (mailbox BLOB PRIMARY KEY, seq INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE chain (mailbox BLOB NOT NULL, seq INTEGER NOT NULL, chain BLOB NOT NULL, PRIMARY KEY (mailbox, seq)) WITHOUT ROWID;
CREATE TABLE conversation (id BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE message (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation BLOB NOT NULL,
    name BLOB NOT NULL,
    seq INTEGER,
    unread INTEGER NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (conversation, name)
);
CREATE INDEX message_by_conversation ON message (conversation, row);
CREATE INDEX message_by_seq ON message (conversation, seq);
CREATE TABLE outbox (row INTEGER PRIMARY KEY AUTOINCREMENT, mailbox BLOB NOT NULL, post BLOB UNIQUE, value BLOB NOT NULL);
CREATE INDEX outbox_by_mailbox ON outbox (mailbox, row);
CREATE TABLE intent (row INTEGER PRIMARY KEY AUTOINCREMENT, conversation BLOB NOT NULL, value BLOB NOT NULL);
CREATE TABLE receipt (conversation BLOB NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (conversation, name)) WITHOUT ROWID;
