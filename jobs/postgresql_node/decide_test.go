package postgresqlnode

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/component/node"
)

// TestMeasureFor: what is within its limits is left alone, a query is cancelled before
// its session is ended, and what lasts longer is never treated more gently.
func TestMeasureFor(t *testing.T) {
	const query, transaction = 10 * time.Second, time.Minute
	for _, c := range []struct {
		s    session
		want measure
	}{
		{session{}, leave},
		{session{query: query + grace}, leave}, // the server's own limit comes first
		{session{query: query + grace + 1}, cancel},
		{session{query: query + 2*grace + 1}, end},
		{session{transaction: transaction}, leave},
		{session{transaction: transaction + 1}, end},
		{session{query: query + grace + 1, transaction: transaction + 1}, end},
	} {
		if got := measureFor(c.s, query, transaction); got != c.want {
			t.Errorf("%+v: %q, want %q", c.s, got, c.want)
		}
	}
	severity := map[measure]int{leave: 0, cancel: 1, end: 2}
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.Int64Range(0, int64(time.Hour))
		draw := func(name string) time.Duration { return time.Duration(seconds.Draw(t, name)) }
		s := session{query: draw("query"), transaction: draw("transaction")}
		longer := session{query: s.query + draw("more query"), transaction: s.transaction + draw("more transaction")}
		q, tx := draw("limit"), draw("transaction limit")
		if severity[measureFor(longer, q, tx)] < severity[measureFor(s, q, tx)] {
			t.Fatalf("%+v is treated more gently than %+v", longer, s)
		}
	})
}

// TestChangeFor: repeated until nothing is to be done, users may write if and only if
// their database is within its limit.
func TestChangeFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := size{bytes: rapid.Int64Range(0, 100).Draw(t, "bytes"), limit: rapid.Int64Range(0, 100).Draw(t, "limit"), writes: rapid.Bool().Draw(t, "writes")}
		for range 2 {
			switch changeFor(s) {
			case revoke:
				s.writes = false
			case giveBack:
				s.writes = true
			case reclaim:
				if s.bytes <= s.limit || s.writes {
					t.Fatalf("room is looked for: %+v", s)
				}
			}
		}
		if s.writes != (s.bytes <= s.limit) {
			t.Fatalf("%+v", s)
		}
	})
}

func TestMaxConnections(t *testing.T) {
	for _, c := range []struct{ capacity, each, want int }{{0, 20, reserved + held}, {50, 20, 1000 + reserved + held}, {1_000_000, 1000, 100_000 + reserved + held}} {
		if got := maxConnections(c.capacity, c.each); got != c.want {
			t.Errorf("%d times %d: %d, want %d", c.capacity, c.each, got, c.want)
		}
	}
}

// TestValidNames: names that the server would cut off, or that are its own, are refused.
func TestValidNames(t *testing.T) {
	fine := node.Instance{Name: "d0123", User: "u0123"}
	if err := validNames(fine); err != nil {
		t.Error(err)
	}
	long := strings.Repeat("x", longestName)
	if err := validNames(node.Instance{Name: long, User: long}); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{long + "x", "postgres", "pg_monitor", "public", "none", "d1_keeper"} {
		if err := validNames(node.Instance{Name: bad, User: "u"}); err == nil {
			t.Errorf("an instance may be %s", bad)
		}
		if err := validNames(node.Instance{Name: "d", User: bad}); err == nil {
			t.Errorf("a user may be %s", bad)
		}
	}
	for _, bad := range []string{"template0", "template1"} {
		if err := validNames(node.Instance{Name: bad, User: "u"}); err == nil {
			t.Errorf("an instance may be %s", bad)
		}
	}
}

func TestNewest(t *testing.T) {
	if got := newest([]string{"/p/9.6/bin/postgres", "/p/15/bin/postgres", "/p/9/bin/postgres", "/p/x/bin/postgres"}); got != "/p/15/bin/postgres" {
		t.Error(got)
	}
}
