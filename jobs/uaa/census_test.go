package uaa

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestCensus: a component with a database of its own says whose accounts are in it,
// while it runs; one whose database is not there does not pass for empty, and one whose
// database is elsewhere has nothing.
func TestCensus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.account("ann@example.com")
	var out bytes.Buffer
	must(t, Census(t.Context(), w.file, &out))
	if got, want := out.String(), "{\"kind\":\"account\",\"name\":\"ann@example.com\"}\n{\"total\":1}\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	data, err := os.ReadFile(w.file)
	must(t, err)
	set := func(from, to string) {
		must(t, os.WriteFile(w.file, []byte(strings.Replace(string(data), from, to, 1)), 0o600))
	}
	set("/uaa.db}", "/none.db}")
	if err := Census(t.Context(), w.file, &out); err == nil {
		t.Error("a database that is not there is taken for empty")
	}
	set("adapter: sqlite3", "adapter: postgresql, host: 127.0.0.1, port: 1, user: u")
	out.Reset()
	must(t, Census(t.Context(), w.file, &out))
	if out.String() != "{\"total\":0}\n" {
		t.Errorf("got %s", &out)
	}
}
