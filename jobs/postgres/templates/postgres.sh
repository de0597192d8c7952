# What the job does with PostgreSQL.
# usage: postgres.sh check|init|run|ready|reload|census|backup|restore [FILE]
#
# The server refuses to run as root, and the folders on the way to its data may
# be closed to its user: those of a local VM of root are. So the data folder is
# opened as who we are and reached through the open descriptor, by everyone.
set -eu
umask 077
here=$(dirname "$0")
. "$here/postgres.env"
main=$DATA/main
export HOME="$DATA" # nobody's settings for clients
open=/proc/self/fd/9

fail() {
	echo "postgres: $*" >&2
	exit 1
}

# The server's programs: of the version that the data is from, else the newest.
if [ -s "$main/PG_VERSION" ]; then
	version=$(cat "$main/PG_VERSION")
	bin=/usr/lib/postgresql/$version/bin
	[ -x "$bin/postgres" ] || fail "the data in $main is from PostgreSQL $version, which this VM does not have in $bin: install postgresql-$version"
else
	bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
	[ -n "$bin" ] && [ -x "$bin/postgres" ] || fail "there is no server in /usr/lib/postgresql/*/bin: install postgresql"
fi

# unprivileged runs a command as the server's user.
user=$(id -un)
if [ "$(id -u)" = 0 ]; then
	user=$RUN_AS
	group=$(id -g "$user") || fail "this VM has no user $user to run the server as (property run_as)"
	unprivileged() { setpriv --reuid="$user" --regid="$group" --init-groups -- "$@"; }
else
	unprivileged() { "$@"; }
fi

# put copies a file into a folder, for the server, in one piece.
put() {
	cp "$1" "$2.new"
	chmod 600 "$2.new"
	[ "$(id -u)" != 0 ] || chown "$user:$group" "$2.new"
	mv "$2.new" "$2"
}

configure() {
	for file in postgresql.conf pg_hba.conf server.pem server.key; do
		put "$here/$file" "$main/$file"
	done
	# The superuser, through the socket: root, and who runs the server.
	printf 'agent %s postgres\n' root "$user" >"$main/pg_ident.conf.ours"
	put "$main/pg_ident.conf.ours" "$main/pg_ident.conf"
}

# opened makes $open the folder that it is given.
opened() {
	cd "$1"
	exec 9<.
	cd /
}

sql() {
	"$bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$open" -p "$PORT" -U postgres -d postgres "$@"
}

# start_for_ourselves starts a server that nobody else reaches, with more options.
start_for_ourselves() {
	unprivileged "$bin/pg_ctl" -s -w -t 590 -D "$open" -l "$open/start.log" -o "-c listen_addresses= $*" start || {
		tail -n 20 "$main/start.log" >&2
		fail "the server does not start"
	}
}

stop_for_ourselves() {
	unprivileged "$bin/pg_ctl" -s -w -t 60 -D "$open" -m fast stop
}

check() {
	# Says which parameter is wrong.
	"$bin/postgres" -C port -D "$here" >/dev/null
}

init() {
	if [ ! -e "$main" ]; then
		make_cluster
		return
	fi
	[ -s "$main/PG_VERSION" ] || fail "$main is there, but is no database cluster of PostgreSQL"
	configure
	opened "$main"
	start_for_ourselves
	trap stop_for_ourselves EXIT
	sql <"$here/roles.sql"
}

# make_cluster makes the database cluster with its roles beside its place, and moves
# it there when it is whole and on the disk. Until then nothing of it counts, so it
# is synced once, at the end: a thousand files one by one take longer than to make
# them.
make_cluster() {
	place=$main
	main=$DATA/making
	rm -rf "$main"
	mkdir -p "$main"
	[ "$(id -u)" != 0 ] || chown "$user:$group" "$main"
	opened "$main"
	unprivileged "$bin/initdb" -D "$open" --username=postgres --auth=peer --encoding=UTF8 --locale=C.UTF-8 --data-checksums --no-instructions --no-sync >/dev/null
	configure
	start_for_ourselves -c fsync=off
	trap stop_for_ourselves EXIT
	sql <"$here/roles.sql"
	trap - EXIT
	stop_for_ourselves
	sync -f "$main"
	mv "$main" "$place"
	sync -f "$place"
	echo "postgres: made the database cluster of PostgreSQL $(cat "$place/PG_VERSION")"
}

run() {
	opened "$main"
	if [ "$(id -u)" = 0 ]; then
		exec setpriv --reuid="$user" --regid="$group" --init-groups -- "$bin/postgres" -D "$open"
	fi
	exec "$bin/postgres" -D "$open"
}

ready() {
	# As somebody whom the server would ask for a password: others are logged.
	PGSSLMODE=require exec "$bin/pg_isready" -q -h "$ADDRESS" -p "$PORT" -U "$ROLE" -d "$DATABASE"
}

reload() {
	configure
	opened "$main"
	problems=$(sql -c "
		SELECT concat_ws(' ', name, '=', setting || ':', error) FROM pg_file_settings WHERE error IS NOT NULL
		UNION ALL SELECT concat_ws(' ', 'pg_hba.conf, line', line_number || ':', error) FROM pg_hba_file_rules WHERE error IS NOT NULL")
	[ -z "$problems" ] || fail "the new configuration is not taken: $problems"
	sql <"$here/roles.sql"
	sql -c "SELECT pg_reload_conf()" >/dev/null
}

# census names the databases in which somebody has made tables.
census() {
	opened "$main"
	names=$(sql -c "SELECT datname FROM pg_database WHERE NOT datistemplate AND datallowconn ORDER BY datname")
	total=0
	for name in $names; do
		case $name in *[!A-Za-z0-9_]*) fail "cannot name a database with the characters of $name" ;; esac
		tables=$(sql -d "$name" -c "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
		[ "$tables" != 0 ] || continue
		total=$((total + 1))
		echo "{\"kind\":\"database\",\"name\":\"$name ($tables tables)\"}"
	done
	echo "{\"total\":$total}"
}

backup() {
	mkdir -p "$DATA/backups"
	file=$DATA/backups/$DATABASE-$(date -u +%Y%m%dT%H%M%SZ).dump
	opened "$main"
	rm -f "$DATA/backups"/*.unfinished
	"$bin/pg_dump" --format=custom -h "$open" -p "$PORT" -U postgres -d "$DATABASE" -f "$file.unfinished"
	sync "$file.unfinished"
	mv "$file.unfinished" "$file"
	ls -1 "$DATA/backups"/"$DATABASE"-*.dump | sort | head -n -"$BACKUPS" | while IFS= read -r old; do
		rm -f "$old"
	done
	echo "$file"
}

# restore replaces the database by a backup, as a whole, or leaves it as it is.
# What it was before is kept as <database>_before_restore until the next time.
restore() {
	file=$(ls -1 "$DATA/backups"/"$DATABASE"-*.dump 2>/dev/null | sort | tail -n 1)
	if [ $# -gt 0 ]; then
		file=$1
		[ -e "$file" ] || file=$DATA/backups/$1
	fi
	[ -f "$file" ] || fail "there is no backup $file in $DATA/backups: run the errand backup, or name a file"
	new=$DATABASE"_"restoring
	before=$DATABASE"_"before_restore
	"$bin/pg_restore" --list "$file" >/dev/null || fail "$file is no backup"
	opened "$main"
	# An earlier restore may have ended between its two renames.
	sql <<-SQL
		SELECT 'ALTER DATABASE "$before" RENAME TO "$DATABASE"'
		WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '$DATABASE') AND EXISTS (SELECT FROM pg_database WHERE datname = '$before') \gexec
		ALTER DATABASE "$DATABASE" ALLOW_CONNECTIONS true;
		DROP DATABASE IF EXISTS "$new" WITH (FORCE);
		CREATE DATABASE "$new" OWNER "$ROLE" TEMPLATE template0;
		REVOKE CONNECT, TEMPORARY ON DATABASE "$new" FROM PUBLIC;
	SQL
	"$bin/pg_restore" --exit-on-error --single-transaction --no-owner --role="$ROLE" -h "$open" -p "$PORT" -U postgres -d "$new" "$file"
	sql <<-SQL
		DROP DATABASE IF EXISTS "$before" WITH (FORCE);
		ALTER DATABASE "$DATABASE" ALLOW_CONNECTIONS false;
		SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '$DATABASE' \g /dev/null
		ALTER DATABASE "$DATABASE" RENAME TO "$before";
		ALTER DATABASE "$new" RENAME TO "$DATABASE";
	SQL
	echo "restored $DATABASE from $file; what it was is kept as $before"
}

command=$1
shift
case $command in
check | init | run | ready | reload | census | backup | restore) "$command" "$@" ;;
*) fail "unknown command $command" ;;
esac
