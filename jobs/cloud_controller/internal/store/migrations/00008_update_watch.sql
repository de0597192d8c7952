ALTER TABLE updates ADD COLUMN watching BIGINT NOT NULL DEFAULT 0; -- 1: it is done, and its version is still watched
