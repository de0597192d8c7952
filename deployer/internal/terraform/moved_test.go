package terraform

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestMovedBlocks(t *testing.T) {
	dir := t.TempDir()
	in := Input{Moves: map[string]string{"database": "db"}}
	if got, err := movedBlocks(dir, in); err != nil || got != nil {
		t.Errorf("before the first apply: %v, %v", got, err)
	}
	const state = `{"version": 4, "resources": [
		{"module": "module.vms", "mode": "managed", "type": "localvm_disk", "name": "disk", "instances": [{"index_key": "database/0"}, {"index_key": "web/0"}]},
		{"module": "module.vms.module.inner", "mode": "managed", "type": "aws_instance", "name": "vm", "instances": [{"index_key": "database/10+"}, {"index_key": "database/1"}, {"index_key": "db/1"}]},
		{"module": "module.vms", "mode": "managed", "type": "localvm_publish", "name": "address", "instances": [{"index_key": 0}, {}]},
		{"module": "module.vms", "mode": "data", "type": "x", "name": "y", "instances": [{"index_key": "database/0"}]},
		{"module": "module.vmsother", "mode": "managed", "type": "x", "name": "y", "instances": [{"index_key": "database/0"}]}
	]}`
	if err := os.WriteFile(filepath.Join(dir, StateFile), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := movedBlocks(dir, in)
	want := []map[string]string{
		{"from": `module.vms.localvm_disk.disk["database/0"]`, "to": `module.vms.localvm_disk.disk["db/0"]`},
		{"from": `module.vms.module.inner.aws_instance.vm["database/10+"]`, "to": `module.vms.module.inner.aws_instance.vm["db/10+"]`},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := movedBlocks(dir, Input{}); err != nil || got != nil {
		t.Errorf("without a move: %v, %v", got, err)
	}
}
