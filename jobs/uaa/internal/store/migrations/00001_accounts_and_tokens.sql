CREATE TABLE uaa_accounts (
    id            TEXT PRIMARY KEY, -- the subject of tokens
    email         TEXT NOT NULL UNIQUE, -- lower case
    password_hash TEXT NOT NULL,
    created_at    BIGINT NOT NULL, -- Unix seconds, as all times
    updated_at    BIGINT NOT NULL
);

-- No account's rows: names that nobody has are guessed, too.
CREATE TABLE uaa_failed_logins (
    email        TEXT PRIMARY KEY,
    forgotten_at BIGINT NOT NULL
);

CREATE TABLE uaa_keys (
    generation BIGINT PRIMARY KEY, -- the highest signs
    id         TEXT NOT NULL UNIQUE,
    sealed     TEXT NOT NULL, -- the private key, encrypted
    epoch      BIGINT NOT NULL, -- the operator's number when it was made
    created_at BIGINT NOT NULL
);

-- A family is what follows from one login.
CREATE TABLE uaa_codes (
    hash       TEXT PRIMARY KEY, -- of the code
    family     TEXT NOT NULL,
    account_id TEXT NOT NULL REFERENCES uaa_accounts (id) ON DELETE CASCADE,
    request    TEXT NOT NULL, -- JSON
    expires_at BIGINT NOT NULL,
    used_at    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE uaa_refresh_tokens (
    hash             TEXT PRIMARY KEY, -- of the token
    family           TEXT NOT NULL,
    account_id       TEXT NOT NULL REFERENCES uaa_accounts (id) ON DELETE CASCADE,
    client_id        TEXT NOT NULL,
    scopes           TEXT NOT NULL, -- with spaces between
    authenticated_at BIGINT NOT NULL,
    expires_at       BIGINT NOT NULL,
    used_at          BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX uaa_refresh_tokens_family ON uaa_refresh_tokens (family);
CREATE INDEX uaa_refresh_tokens_account ON uaa_refresh_tokens (account_id);

-- Families that were used twice or revoked, as long as a request in progress could
-- add to them; access tokens that were revoked, as long as they would be valid.
CREATE TABLE uaa_revoked (
    id         TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
