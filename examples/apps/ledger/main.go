// Command ledger keeps lines in the SQL databases that it is bound to: a POST to
// /postgresql or /mysql adds one, a GET shows them all; /rabbitmq does so with a queue.
// VCAP_SERVICES says where they are and who the app is there.
//
//	CGO_ENABLED=0 go build -o target/ledger .
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// credentials describe what the platform tells of a database.
type credentials struct {
	Name, Host, User, Password string
	Port                       int
}

func (c credentials) address() string { return c.Host + ":" + strconv.Itoa(c.Port) }

// dialect describes how a kind of database is spoken to.
type dialect struct {
	driver string
	source func(credentials) string
	create string
	insert string
}

var dialects = map[string]dialect{
	"postgresql": {
		"pgx",
		func(c credentials) string {
			return (&url.URL{Scheme: "postgres", User: url.UserPassword(c.User, c.Password), Host: c.address(), Path: c.Name}).String()
		},
		"CREATE TABLE IF NOT EXISTS ledger (id serial PRIMARY KEY, line text)", "INSERT INTO ledger (line) VALUES ($1)",
	},
	"mysql": {
		"mysql",
		func(c credentials) string {
			config := mysql.NewConfig()
			config.User, config.Passwd, config.Net, config.Addr, config.DBName = c.User, c.Password, "tcp", c.address(), c.Name
			return config.FormatDSN()
		},
		"CREATE TABLE IF NOT EXISTS ledger (id serial PRIMARY KEY, line text)", "INSERT INTO ledger (line) VALUES (?)",
	},
}

// open connects to the first bound service of each kind; label is "postgresql-15".
func open() (map[string]*sql.DB, error) {
	bound := map[string][]struct{ Credentials credentials }{}
	if text := os.Getenv("VCAP_SERVICES"); text != "" {
		if err := json.Unmarshal([]byte(text), &bound); err != nil {
			return nil, fmt.Errorf("cannot read VCAP_SERVICES: %w", err)
		}
	}
	databases := map[string]*sql.DB{}
	for label, services := range bound {
		kind, _, _ := strings.Cut(label, "-")
		if d, known := dialects[kind]; known && len(services) > 0 {
			db, err := sql.Open(d.driver, d.source(services[0].Credentials))
			if err != nil {
				return nil, fmt.Errorf("cannot use %s: %w", kind, err)
			}
			db.SetMaxOpenConns(4)
			databases[kind] = db
		}
	}
	return databases, nil
}

// lines adds a line, unless it is empty, and returns all.
func lines(ctx context.Context, d dialect, db *sql.DB, line string) ([]string, error) {
	if line != "" {
		if _, err := db.ExecContext(ctx, d.create); err != nil {
			return nil, err
		}
		if _, err := db.ExecContext(ctx, d.insert, line); err != nil {
			return nil, err
		}
	}
	rows, err := db.QueryContext(ctx, "SELECT line FROM ledger ORDER BY id")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		if err := rows.Scan(&line); err != nil {
			return nil, err
		}
		list = append(list, line)
	}
	return list, rows.Err()
}

func main() {
	databases, err := open()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/{kind}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 200))
		db, bound := databases[r.PathValue("kind")]
		if err == nil && !bound {
			err = errors.New("no such service is bound to this app")
		}
		var list []string
		if err == nil {
			ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
			defer cancel()
			list, err = lines(ctx, dialects[r.PathValue("kind")], db, string(body))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, strings.Join(list, "\n"))
	})
	http.HandleFunc("/rabbitmq", serveQueue)
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "databases:", len(databases)) })
	log.Fatal(http.ListenAndServe(":"+os.Getenv("VCAP_APP_PORT"), nil))
}
