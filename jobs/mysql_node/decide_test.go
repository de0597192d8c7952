package mysqlnode

import (
	"strings"
	"testing"
)

func TestMaxConnections(t *testing.T) {
	for _, c := range []struct{ capacity, each, want int }{{0, 20, 40 + 2*held}, {50, 20, 1040 + 2*held}, {1_000_000, 1000, 90_000 + 2*held}} {
		if got := maxConnections(c.capacity, c.each); got != c.want {
			t.Errorf("%d times %d: %d, want %d", c.capacity, c.each, got, c.want)
		}
	}
}

// TestValidName: names that would not be the same in the names of files, or that are the
// server's own, are refused; a name is no pattern where GRANT reads one.
func TestValidName(t *testing.T) {
	for _, fine := range []string{"d0123", "a_b", strings.Repeat("x", 64)} {
		if err := validName(fine); err != nil {
			t.Errorf("%s: %v", fine, err)
		}
	}
	for _, bad := range []string{"", "a-b", "a.b", "a`b", "a'b", "a%", strings.Repeat("x", 65), "mysql", "MySQL", "information_schema", "root", "sys", "PUBLIC"} {
		if err := validName(bad); err == nil {
			t.Errorf("%q may be a name", bad)
		}
	}
	if got := pattern("a_b"); got != "`a\\_b`" {
		t.Error(got)
	}
}

func TestText(t *testing.T) {
	if got := text("a'b\\c\x00"); got != `'a''b\\c\0'` {
		t.Error(got)
	}
}

func TestFindVersion(t *testing.T) {
	if v, err := findVersion("/usr/sbin/mariadbd"); err != nil || !strings.Contains(v, ".") {
		t.Errorf("%q, %v", v, err)
	}
	for _, program := range []string{"/bin/true", "/nowhere/mariadbd"} {
		if v, err := findVersion(program); err == nil {
			t.Errorf("%s is a MariaDB server %s", program, v)
		}
	}
}
