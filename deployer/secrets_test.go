package deployer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A value that the state, which is JSON, would change is refused, and nothing is
// written.
func TestSetSecretRefusesBytes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "m.hcl")
	if err := os.WriteFile(file, []byte("deployment \"d\" {}\ninfrastructure \"local\" {}\nsecret \"key\" { type = \"password\" }\nsecret \"web\" { type = \"ssh\" }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Manifest: file, StateDir: filepath.Join(dir, "state"), Jobs: os.DirFS("../jobs"), Templates: os.DirFS("../templates"), Packages: ProgramFolder(t, "agent")})
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"key": "p\xe4ss\xff", "web": "{\"public_key\": \"\xff\", \"private_key\": \"x\"}"} {
		if _, err := d.SetSecret(t.Context(), name, value); err == nil || !strings.Contains(err.Error(), "not UTF-8 text") || !strings.Contains(err.Error(), "base64") {
			t.Errorf("%s = %q: %v", name, value, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "state", "d", "secrets.json")); err == nil {
		t.Error("secrets were written")
	}
	for _, value := range []string{"päss\u2028", "a replacement \ufffd as such"} {
		if _, err := d.SetSecret(t.Context(), "key", value); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Secret("key"); err != nil || got != value {
			t.Errorf("%q is kept as %q: %v", value, got, err)
		}
	}
}
