-- Relays other than our own that cannot be reached, and for how long (engine/link/gone.rs). key: hidden URL.
CREATE TABLE down (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
