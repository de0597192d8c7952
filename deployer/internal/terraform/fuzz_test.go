package terraform

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	tfjson "github.com/hashicorp/terraform-json"
)

// What an engine's state and outputs hold comes from files and templates that
// anybody may have written: it is read or refused, and never believed by halves.
func FuzzEngine(f *testing.F) {
	f.Add([]byte(`{"version":4,"serial":7,"lineage":"a","outputs":{"instances":{"value":{"g/0":{"id":"vm-0"}}}}}`))
	f.Add([]byte(`{"g/0":{"id":"vm-0","address":"127.0.0.1","ssh_host":"h","ssh_port":22,"ssh_user":"u","agent_dir":"/a","os":"linux","arch":"amd64"}}`))
	f.Add([]byte(`{"lineage":"a","serial":-1}`))
	f.Add([]byte("null"))
	in := Input{Instances: map[string]InstanceInput{"g/0": {}}}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if instances, err := readInstances(data, in); err == nil {
			if len(instances) != 1 || instances["g/0"].ID == "" || instances["g/0"].SSHPort < 1 {
				t.Errorf("%q became %+v", data, instances)
			}
		}
		_ = plannedInstances(&tfjson.Change{After: string(data)})
		if err := os.WriteFile(filepath.Join(dir, StateFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		was := StateID{"a", 7}
		switch now, err := CheckState(dir, was, []string{"vm-0"}); {
		case err == nil && now.Lineage != was.Lineage:
			t.Errorf("%q was taken for %+v", data, was)
		case err != nil && !errors.Is(err, ErrState):
			t.Errorf("%q: %v", data, err)
		}
	})
}
