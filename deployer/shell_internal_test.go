package deployer

import (
	"strings"
	"testing"
)

// TestTheInstance: a shell opens on an instance, or on the only one of a group.
func TestTheInstance(t *testing.T) {
	ids := []string{"db-1/0", "nats/0", "router/0", "router/1", "router/10"}
	for name, want := range map[string]string{
		"router/1": "router/1", "nats": "nats/0", "nats/0": "nats/0",
		"router": "the group has 3 instances; name one, as router/0", "db": "there is no such instance", "nats/1": "there is no such instance", "": "there is no such instance",
	} {
		got, err := theInstance(ids, name)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.HasPrefix(got, want)) {
			t.Errorf("%q means %q, want %q", name, got, want)
		}
	}
}
