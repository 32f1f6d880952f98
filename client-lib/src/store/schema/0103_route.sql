-- How relays are reached. key: hidden URL.
CREATE TABLE route (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
