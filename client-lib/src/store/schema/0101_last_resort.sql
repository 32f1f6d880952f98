-- Which key packages are for the last resort: when another takes their place, their secrets are soon deleted.
ALTER TABLE key_package ADD COLUMN last_resort INTEGER NOT NULL DEFAULT 0;
