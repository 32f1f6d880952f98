-- Where something of ours that was said again lies now; place and seq stay where it was said first, which is
-- where it is shown.
ALTER TABLE entry ADD COLUMN again_place INTEGER;
ALTER TABLE entry ADD COLUMN again_seq INTEGER;
CREATE INDEX entry_again ON entry (conversation, again_place, again_seq) WHERE again_place IS NOT NULL;
