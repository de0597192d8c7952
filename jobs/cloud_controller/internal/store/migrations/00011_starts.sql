-- How many instances accounts have started lately.
CREATE TABLE starts (
    owner_id      BIGINT PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    counted_until BIGINT NOT NULL -- Unix milliseconds: when all of them no longer count
);
