-- How often an app's instances were spread over the DEAs anew, and which app's were the
-- last. One row: who raises turn is the only controller that does so now.
CREATE TABLE rebalances (
    turn   BIGINT NOT NULL,
    app_id BIGINT NOT NULL
);

INSERT INTO rebalances (turn, app_id) VALUES (0, 0);
