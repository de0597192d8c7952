-- What an app's instances run or ran: one row for each version that was brought in.
CREATE TABLE releases (
    app_id       BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    run_count    BIGINT NOT NULL, -- of the version; no two of an app are equal
    number       BIGINT NOT NULL, -- the user's; a restart keeps it
    droplet_hash TEXT NOT NULL,
    package_hash TEXT NOT NULL,
    spec         TEXT NOT NULL, -- JSON: how its instances run
    cause        TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    PRIMARY KEY (app_id, run_count)
);

-- How apps get from one version to the next.
CREATE TABLE updates (
    app_id     BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    run_count  BIGINT NOT NULL, -- of the release that it brings in
    previous   BIGINT NOT NULL, -- run_count of the release that it replaces
    status     TEXT NOT NULL, -- running, done, undone, superseded, cancelled
    reason     TEXT NOT NULL DEFAULT '',
    state      TEXT NOT NULL, -- JSON: how far it has come
    holder     TEXT NOT NULL, -- the controller that carries it out; '': none
    claim      BIGINT NOT NULL DEFAULT 1, -- counts the holders
    beat       BIGINT NOT NULL DEFAULT 0, -- counts the holder's signs of life
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (app_id, run_count)
);

CREATE INDEX updates_status ON updates (status);
