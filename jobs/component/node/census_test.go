package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clusterworks/deploy/jobs/wire"
)

// A node says by its records whose instances it has, also when it does not run; what it
// cannot read counts, and records that are not there at all are no answer.
func TestCensus(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "")
	mine := f.ok(wire.ServiceProvision, `{"plan":"free","version":"1.0","owner":"ann@example.com","called":"orders"}`).Name()
	other := f.ok(wire.ServiceProvision, `{"plan":"free","version":"1.0","called":"`+strings.Repeat("x", 5000)+`"}`).Name()
	for _, app := range []string{"shop", "shop", ""} { // of somebody who does not say it
		f.ok(wire.ServiceBind, `{"name":"`+mine+`","bind_opts":{},"app":"`+app+`"}`)
	}
	f.stop()
	records := filepath.Join(f.base, recordsFolder)
	for name, text := range map[string]string{"bad.json": "{", "worse.json.1.damaged": "", ".tmp123": ""} {
		if err := os.WriteFile(filepath.Join(records, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	things, err := Census(f.file, "shelf")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := wire.WriteCensus(&out, things); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"kind":"shelf instance","name":"orders ` + mine + `","owner":"ann@example.com","apps":["shop"]}`,
		`x ` + other + `"}`, `"name":"bad, whose record cannot be read"`, `"name":"worse.json.1.damaged, whose record cannot be read"`, "\n{\"total\":4}\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, &out)
		}
	}
	if strings.Contains(out.String(), strings.Repeat("x", 300)) {
		t.Error("what a user calls an instance is not bounded")
	}
	for _, secret := range []string{"password", "secret"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the census tells a %s: %s", secret, &out)
		}
	}
	if err := os.RemoveAll(records); err != nil {
		t.Fatal(err)
	}
	if things, err := Census(f.file, "shelf"); err == nil {
		t.Errorf("records that are not there are taken for %d instances", len(things))
	}
}
