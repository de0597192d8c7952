-- Where the passwords of accounts are: 'controller', in users, or 'uaa', of which users
-- has stamps. One row, which whoever changes a password holds meanwhile.
CREATE TABLE account_home (
    home TEXT NOT NULL
);

INSERT INTO account_home (home) VALUES ('controller');
