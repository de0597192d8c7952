package cloudcontroller

import (
	"bytes"
	"strings"
	"testing"
)

// A controller with a database of its own says whose apps are in it, while it runs; one
// whose database is elsewhere has nothing.
func TestCensus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.start("")
	c.register("ann@example.com").create("shop")
	var out bytes.Buffer
	must(t, Census(t.Context(), c.configFile, &out))
	for _, want := range []string{`{"kind":"app","name":"shop","owner":"ann@example.com"}`, `{"kind":"user","name":"ann@example.com"}`, "\n{\"total\":"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, &out)
		}
	}
	c.configure("database_environment: {production: {adapter: sqlite3, database: " + c.dir + "/none.db}}\n")
	if err := Census(t.Context(), c.configFile, &out); err == nil {
		t.Errorf("a database that is not there is taken for empty")
	}
	c.configure("database_environment: {production: {adapter: postgresql, database: cc, host: 127.0.0.1, port: 1}}\n")
	out.Reset()
	must(t, Census(t.Context(), c.configFile, &out))
	if out.String() != "{\"total\":0}\n" {
		t.Errorf("got %s", &out)
	}
}
