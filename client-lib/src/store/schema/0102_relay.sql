-- Relays other than our own that the person chose. key: hidden URL.
CREATE TABLE relay (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
