ALTER TABLE updates ADD COLUMN hold BIGINT NOT NULL DEFAULT 0; -- at how many instances it waits to be promoted; 0: it does not
