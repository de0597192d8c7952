-- Names that components have registered with the routers: no app gets them.
CREATE TABLE platform_hosts (
    host     TEXT PRIMARY KEY, -- lower case
    noted_at BIGINT NOT NULL -- when a component last had it
);
