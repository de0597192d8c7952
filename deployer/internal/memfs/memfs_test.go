package memfs

import (
	"io/fs"
	"testing"
	"testing/fstest"
)

func TestFS(t *testing.T) {
	f := FS{"a.hcl": []byte("x"), "jobs/nats/job.hcl": nil, "jobs/nats/templates/t": []byte("tt")}
	if err := fstest.TestFS(f, "a.hcl", "jobs/nats/job.hcl", "jobs/nats/templates/t"); err != nil {
		t.Error(err)
	}
	if err := fstest.TestFS(FS{}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"none", "jobs/nat", "../a.hcl", ""} {
		if _, err := fs.Stat(f, name); err == nil {
			t.Errorf("%q is there", name)
		}
	}
}
