package dea

import (
	"slices"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/wire"
	"pgregory.net/rapid"
)

// value returns what an app has under a name, and whether it has it.
func value(t *testing.T, port int, expand bool, name string, env ...string) (string, bool) {
	t.Helper()
	list, err := environment(core.Instance{ID: "i1", Port: port, Start: wire.DEAStart{Name: "a", Env: env, Limits: wire.Limits{Mem: 64}}}, "10.0.0.9", "/home/vcap", expand)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(one string) bool { return strings.HasPrefix(one, name+"=") })
	if i < 0 {
		return "", false
	}
	return strings.TrimPrefix(list[i], name+"="), true
}

// TestValuesPass: whatever a value has in it, the app gets.
func TestValuesPass(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := rapid.OneOf(
			rapid.StringOfN(rapid.SampledFrom([]rune("$'\"`\\{}()=#!~*? \n\tA1é")), 0, 20, -1),
			rapid.String().Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }),
		).Draw(r, "value")
		got, ok := value(t, 0, false, "V", "A=other", "V="+want)
		if !ok || got != want {
			r.Fatalf("%q came as %q", want, got)
		}
	})
}

// TestLanguage: an app reads and writes UTF-8 unless its owner says otherwise.
func TestLanguage(t *testing.T) {
	if got, _ := value(t, 0, false, "LANG"); got != "C.UTF-8" {
		t.Errorf("LANG is %q", got)
	}
	if got, _ := value(t, 0, false, "LANG", "LANG=de_DE.UTF-8"); got != "de_DE.UTF-8" {
		t.Errorf("the user's LANG is %q", got)
	}
	if got, _ := value(t, 0, false, "USER"); got != "vcap" {
		t.Errorf("USER is %q", got)
	}
}

// TestExpandVariables: with the property, values are read as in 2012.
func TestExpandVariables(t *testing.T) {
	for _, tc := range []struct{ value, want string }{
		{"plain", "plain"}, {"$A/x", "1/x"}, {"${A}x", "1x"}, {`"$A"`, "1"}, {"'$A'", "$A"}, {"'tis", "tis"}, {"$NOPE", ""},
	} {
		if got, _ := value(t, 0, true, "V", "A=1", "V="+tc.value); got != tc.want {
			t.Errorf("%q is %q, want %q", tc.value, got, tc.want)
		}
	}
}

// TestPort: an app that is to listen finds its port under today's name, and one
// that is not to has none at all; a user may choose another.
func TestPort(t *testing.T) {
	if got, ok := value(t, 0, false, "PORT"); ok {
		t.Errorf("an app without a port has PORT=%q", got)
	}
	if got, _ := value(t, 20001, false, "PORT"); got != "20001" {
		t.Errorf("PORT is %q", got)
	}
	if got, _ := value(t, 20001, false, "PORT", "PORT=3000"); got != "3000" {
		t.Errorf("the user's PORT is %q", got)
	}
	if got, _ := value(t, 20001, false, "CF_INSTANCE_ADDR"); got != "10.0.0.9:20001" {
		t.Errorf("CF_INSTANCE_ADDR is %q", got)
	}
}
