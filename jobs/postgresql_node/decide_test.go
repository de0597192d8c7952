package postgresqlnode

import (
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/component/node"
)

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
