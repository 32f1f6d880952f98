-- What members' devices ask because they cannot go on (conversation/heard.rs).
-- owner: id of the conversation; label: hidden person and device.
CREATE TABLE heard (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    owner BLOB NOT NULL,
    label BLOB,
    value BLOB NOT NULL,
    UNIQUE (owner, label)
);
CREATE INDEX heard_in_order ON heard (owner, row);
