SELECT 'CREATE ROLE "${property.user}"' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '${property.user}') \gexec
-- Whatever is logged, the password is not.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
ALTER ROLE "${property.user}" LOGIN NOSUPERUSER NOCREATEROLE NOREPLICATION PASSWORD '${property.password}';
SELECT 'CREATE DATABASE "${property.database}" OWNER "${property.user}"' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '${property.database}') \gexec
ALTER DATABASE "${property.database}" OWNER TO "${property.user}";
REVOKE CONNECT, TEMPORARY ON DATABASE "${property.database}" FROM PUBLIC;
