package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/clusterworks/deploy/jobs/component/sqldb"
)

// testdata/statements_<schema>_<database>.json is what the scenario asked of the
// database when that schema was the newest, word for word. The newest file
// follows the code (go test -update); the others never change: they are the
// previous versions, which must go on working beside a controller of this one.
const newestSchema = 11

// statement is one that was sent, and what came back.
type statement struct {
	Query string  `json:"query"`
	Args  []any   `json:"args,omitempty"`
	Rows  [][]any `json:"rows,omitempty"`
	Fails bool    `json:"fails,omitempty"`
}

func goldenFile(schema int, database string) string {
	return filepath.Join("testdata", fmt.Sprintf("statements_%d_%s.json", schema, database))
}

func databaseName(s *Store) string {
	if s.db.Postgres {
		return "postgres"
	}
	return "sqlite"
}

// TestStatements holds the newest file to what the code sends.
func TestStatements(t *testing.T) {
	each(t, func(t *testing.T, uri string) {
		s := open(t, uri)
		r := &recorder{parent: s.db.DB}
		recorded := newStore(&sqldb.DB{DB: sql.OpenDB(r), Postgres: s.db.Postgres})
		recorded.now = s.now
		recorded.db.SetMaxOpenConns(1)
		defer recorded.Close()
		scenario(t, recorded)
		data, err := json.MarshalIndent(r.list, "", " ")
		must(t, err)
		data = append(data, '\n')
		file := goldenFile(newestSchema, databaseName(s))
		if *update {
			must(t, os.WriteFile(file, data, 0o644))
		}
		want, err := os.ReadFile(file)
		must(t, err)
		if string(data) != string(want) {
			t.Errorf("the code sends other statements than %s says. If they are meant, go test -update; after a new migration, raise newestSchema first.", file)
		}
	})
}

// TestPreviousVersions: what former versions send works on the newest schema,
// and they get the same answers.
func TestPreviousVersions(t *testing.T) {
	for schema := 1; schema <= newestSchema; schema++ {
		t.Run(fmt.Sprint(schema), func(t *testing.T) {
			each(t, func(t *testing.T, uri string) {
				s := open(t, uri)
				data, err := os.ReadFile(goldenFile(schema, databaseName(s)))
				must(t, err)
				var list []statement
				must(t, json.Unmarshal(data, &list))
				conn, err := s.db.Conn(t.Context())
				must(t, err)
				defer conn.Close()
				for i, want := range list {
					args := make([]any, len(want.Args))
					for n, arg := range want.Args {
						args[n] = arg
						if number, ok := arg.(float64); ok {
							args[n] = int64(number)
						}
					}
					rows, err := replay(t.Context(), conn, want.Query, args)
					if (err != nil) != want.Fails {
						t.Fatalf("statement %d: %s: error %v", i, want.Query, err)
					}
					if diff := cmp.Diff(want.Rows, rows); diff != "" {
						t.Fatalf("statement %d: %s (-then +now):\n%s", i, want.Query, diff)
					}
				}
			})
		})
	}
}

func replay(ctx context.Context, conn *sql.Conn, query string, args []any) (list [][]any, err error) {
	rows, err := conn.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		row, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		list = append(list, row)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	// As they are read from a file.
	data, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	return list, json.Unmarshal(data, &list)
}

// recorder notes what passes through the connections of a database.
type recorder struct {
	parent *sql.DB
	list   []statement
}

func (r *recorder) Driver() driver.Driver { return r.parent.Driver() }

// Connect takes a connection of the parent's and keeps it.
func (r *recorder) Connect(ctx context.Context) (driver.Conn, error) {
	held, err := r.parent.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c := &recordedConn{r: r, held: held}
	return c, held.Raw(func(raw any) error {
		if pg, ok := raw.(*stdlib.Conn); ok {
			c.checker = pg
		}
		c.Conn = raw.(driver.Conn)
		return nil
	})
}

type recordedConn struct {
	driver.Conn
	r       *recorder
	held    *sql.Conn
	checker driver.NamedValueChecker // nil: the default
}

func (c *recordedConn) Close() error { return c.held.Close() }

func (c *recordedConn) CheckNamedValue(v *driver.NamedValue) (err error) {
	if c.checker != nil {
		return c.checker.CheckNamedValue(v)
	}
	v.Value, err = driver.DefaultParameterConverter.ConvertValue(v.Value)
	return err
}

func (c *recordedConn) note(query string, args []driver.NamedValue) *statement {
	s := statement{Query: query}
	for _, a := range args {
		s.Args = append(s.Args, a.Value)
	}
	c.r.list = append(c.r.list, s)
	return &c.r.list[len(c.r.list)-1]
}

func (c *recordedConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	c.note("BEGIN", nil)
	tx, err := c.Conn.(driver.ConnBeginTx).BeginTx(ctx, o)
	return &recordedTx{tx, c}, err
}

type recordedTx struct {
	driver.Tx
	c *recordedConn
}

func (t *recordedTx) Commit() error   { t.c.note("COMMIT", nil); return t.Tx.Commit() }
func (t *recordedTx) Rollback() error { t.c.note("ROLLBACK", nil); return t.Tx.Rollback() }

func (c *recordedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s := c.note(query, args)
	result, err := c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
	s.Fails = err != nil
	return result, err
}

func (c *recordedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s := c.note(query, args)
	rows, err := c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
	s.Fails = err != nil
	if err != nil {
		return nil, err
	}
	return &recordedRows{rows, c.r, len(c.r.list) - 1}, nil
}

type recordedRows struct {
	driver.Rows
	r     *recorder
	index int
}

func (r *recordedRows) Next(into []driver.Value) error {
	err := r.Rows.Next(into)
	s := &r.r.list[r.index]
	switch {
	case err == nil:
		row := make([]any, len(into))
		for i, v := range into {
			if text, ok := v.([]byte); ok {
				v = string(text)
			}
			if at, ok := v.(time.Time); ok {
				v = at.Unix()
			}
			row[i] = v
		}
		s.Rows = append(s.Rows, row)
	case !errors.Is(err, io.EOF):
		s.Fails = true
	}
	return err
}
