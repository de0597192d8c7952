-- No account's rows: names that nobody has are guessed, too.
CREATE TABLE failed_logins (
    email        TEXT PRIMARY KEY, -- lower case
    forgotten_at BIGINT NOT NULL -- when the last of the failures no longer counts
);
