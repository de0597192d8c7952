-- +goose Up
CREATE TABLE users (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    email         TEXT NOT NULL UNIQUE, -- lower case
    password_hash TEXT NOT NULL,
    created_at    BIGINT NOT NULL, -- Unix seconds, as all times
    updated_at    BIGINT NOT NULL
);

CREATE TABLE apps (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    owner_id      BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name          TEXT NOT NULL,
    framework     TEXT NOT NULL,
    runtime       TEXT NOT NULL,
    state         TEXT NOT NULL, -- STOPPED, STARTED
    instances     BIGINT NOT NULL,
    memory        BIGINT NOT NULL, -- MB, of one instance
    disk          BIGINT NOT NULL, -- MB
    fds           BIGINT NOT NULL,
    environment   TEXT NOT NULL, -- JSON: ["NAME=value"]
    debug         TEXT NOT NULL DEFAULT '', -- '', run, suspend
    console       BOOLEAN NOT NULL DEFAULT FALSE,
    command       TEXT NOT NULL DEFAULT '',
    run_count     BIGINT NOT NULL DEFAULT 0,
    package_hash  TEXT NOT NULL DEFAULT '', -- sha1 of the uploaded zip
    package_state TEXT NOT NULL DEFAULT 'PENDING', -- PENDING, STAGED, FAILED
    droplet_hash  TEXT NOT NULL DEFAULT '', -- sha1 of the staged droplet
    lock_version  BIGINT NOT NULL DEFAULT 1, -- counts the changes
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    UNIQUE (owner_id, name)
);

-- A host name belongs to one user, who may give it to several apps.
CREATE TABLE hosts (
    host     TEXT PRIMARY KEY, -- lower case
    owner_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE
);

CREATE TABLE app_hosts (
    app_id   BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    host     TEXT NOT NULL REFERENCES hosts (host),
    position BIGINT NOT NULL, -- as the user listed them
    PRIMARY KEY (app_id, host)
);

CREATE INDEX app_hosts_host ON app_hosts (host);

CREATE TABLE staging_logs (
    app_id     BIGINT PRIMARY KEY REFERENCES apps (id) ON DELETE CASCADE,
    log        TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
