package nats

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files of a lone server and those of one of several are in different folders;
// without any, nobody knows what lives there.
func TestCensusFindsTheServersFiles(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ folder, want string }{
		"lone":           {"jetstream/AGENTS/streams/OBJ_packages", `{"total":0}`},
		"one of several": {"cluster/jetstream/AGENTS/streams/OBJ_packages", `{"total":0}`},
		"of a user":      {"cluster/jetstream/AGENTS/streams/orders", "orders"},
		"none":           {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := t.TempDir()
			if err := os.MkdirAll(filepath.Join(store, test.folder), 0o700); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(store, "nats.yml")
			if err := os.WriteFile(file, []byte("store: "+store+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			err := Census(file, &out)
			if (err != nil) != (test.want == "") || !strings.Contains(out.String(), test.want) {
				t.Errorf("%q, %v; want %q", out.String(), err, test.want)
			}
		})
	}
}
