-- +goose Up
CREATE TABLE services (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    label      TEXT NOT NULL, -- <name>-<version>
    provider   TEXT NOT NULL, -- '' is core
    document   TEXT NOT NULL, -- JSON: the offering as its gateway posted it
    active     BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (label, provider)
);

CREATE TABLE service_instances (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    owner_id      BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    service_id    BIGINT NOT NULL REFERENCES services (id),
    alias         TEXT NOT NULL, -- the user's name for it
    gateway_id    TEXT NOT NULL DEFAULT '', -- the gateway's; '': is being provisioned
    plan          TEXT NOT NULL,
    plan_option   TEXT NOT NULL DEFAULT '',
    version       TEXT NOT NULL,
    configuration TEXT NOT NULL DEFAULT 'null', -- JSON, as all of these
    credentials   TEXT NOT NULL DEFAULT 'null',
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    UNIQUE (owner_id, alias)
);

CREATE INDEX service_instances_service ON service_instances (service_id, gateway_id);

CREATE TABLE service_bindings (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id        BIGINT NOT NULL REFERENCES apps (id) ON DELETE CASCADE,
    instance_id   BIGINT NOT NULL REFERENCES service_instances (id) ON DELETE CASCADE,
    gateway_id    TEXT NOT NULL,
    token         TEXT NOT NULL UNIQUE, -- by which it is removed
    options       TEXT NOT NULL, -- JSON
    configuration TEXT NOT NULL,
    credentials   TEXT NOT NULL,
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    UNIQUE (app_id, instance_id)
);

CREATE INDEX service_bindings_instance ON service_bindings (instance_id);

-- Lets another user bind to an instance.
CREATE TABLE binding_tokens (
    token       TEXT PRIMARY KEY,
    instance_id BIGINT NOT NULL REFERENCES service_instances (id) ON DELETE CASCADE,
    options     TEXT NOT NULL, -- JSON
    created_at  BIGINT NOT NULL
);
